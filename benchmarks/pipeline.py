"""Pipeline: each shipped configuration in the real Collector, on one core: spans a second without loss, CPU a span,
memory.
"""

from __future__ import annotations

import gzip
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from benchmarks import harness
from benchmarks.pipeline_load import FRAMES, Downstream, Sender, Trace, traces
from benchmarks.replay import STEPS
from tools.stack.collector import Collector

#: The Collector's own account of what it did, kept in the JSON beside what was counted at both ends.
COUNTERS = (
    "otelcol_receiver_accepted_spans_total",
    "otelcol_receiver_refused_spans_total",
    "otelcol_exporter_sent_spans_total",
    "otelcol_exporter_send_failed_spans_total",
    "otelcol_exporter_enqueue_failed_spans_total",
    "otelcol_processor_tail_sampling_count_traces_sampled_total",
    "otelcol_processor_tail_sampling_sampling_trace_dropped_too_early_total",
)
HELD_S = 30.0  # how long gateway.yaml holds a trace; as shipped, for that is what its memory goes to


@dataclass(frozen=True)
class Setup:
    """A configuration, the rates to try it at, and what it promises."""

    name: str
    config: str
    rates: tuple[int, ...]
    batched: bool = True  # fed by another Collector, not by services
    share: float = 1.0  # of the traces, kept
    held: float = 0.0  # seconds before a trace is let out


SETUPS = (
    Setup("agent", "agent", (2_000, 5_000, 10_000, 20_000, 40_000, 80_000), batched=False),
    Setup("gateway-lb", "gateway-lb", (2_000, 5_000, 10_000, 20_000, 40_000, 80_000)),
    Setup("gateway, keeps all", "gateway", (5_000, 10_000, 20_000, 40_000), held=HELD_S),
    Setup("gateway, keeps 10 %", "gateway", (10_000, 20_000, 40_000), share=0.1, held=HELD_S),
)


@dataclass
class Found:
    """One configuration at one rate."""

    wanted: int
    rate: float
    us: float
    core: float
    mib: float
    lost: int
    refused: int
    bytes_in: float
    bytes_out: float
    sender: float  # share of a core that sending and receiving took
    out: float  # spans a second that came out meanwhile; below what is due, the CPU a span is understated
    counters: dict[str, float]

    @property
    def sound(self) -> bool:
        return not self.lost and not self.refused

    @property
    def reached(self) -> bool:
        return self.rate > 0.9 * self.wanted


def measure(folder: Path, setup: Setup, rate: int, seconds: float, payload: list[Trace]) -> Found:
    downstream = Downstream()
    environment = {"GOMAXPROCS": "1", "COLLECTOR_LOG_LEVEL": "error", "GATEWAYS": downstream.endpoints,
                   "GATEWAY_SHARE": str(setup.share), "GATEWAY_DECISION_WAIT": f"{setup.held:g}s"}  # fmt: skip
    with Collector(setup.config, folder / f"{setup.name}-{rate}", downstream.endpoint, environment) as collector:
        process = psutil.Process(collector.process.pid)
        sender = Sender(collector, payload, setup.share, batched=setup.batched)
        # Warm, and so long that as much leaves as comes: only then is a second of CPU the cost of a second's spans.
        sender.load(rate, min(2.0, seconds) + 1.1 * setup.held)
        before, sent_before, bytes_before = process.cpu_times(), sender.total.accepted, sender.total.bytes
        came = downstream.spans
        began, own = time.monotonic(), time.process_time()
        sender.load(rate, seconds)
        passed, own = time.monotonic() - began, time.process_time() - own
        after, memory = process.cpu_times(), process.memory_info().rss
        came = downstream.spans - came
        sent, size = sender.total.accepted - sent_before, sender.total.bytes - bytes_before
        downstream.wait(sender.total.due, setup.held + 5)
        counters = {name: collector.counted(name) for name in COUNTERS}
    downstream.stop()
    cpu = after.user + after.system - before.user - before.system
    return Found(
        wanted=rate, rate=sent / passed, us=cpu / max(1, sent) * 1e6, core=cpu / passed, mib=memory / 2**20,
        lost=sender.total.due - downstream.spans, refused=sender.total.refused,
        bytes_in=size / max(1, sent), bytes_out=downstream.bytes / max(1, downstream.spans), sender=own / passed,
        out=came / passed, counters=counters,
    )  # fmt: skip


def climb(folder: Path, setup: Setup, seconds: float, payload: list[Trace]) -> list[Found]:
    """Rate by rate, up to the first that it does not sustain."""
    found: list[Found] = []
    for rate in setup.rates:
        found.append(measure(folder, setup, rate, seconds, payload))
        if not found[-1].sound or not found[-1].reached:
            break
    return found


def best(found: list[Found]) -> Found | None:
    return max((each for each in found if each.sound), key=lambda each: each.rate, default=None)


def verdict(setup: Setup, found: list[Found]) -> str:
    """The highest rate without loss, and what stood in the way of a higher one."""
    last, top = found[-1], best(found)
    text = (
        f"{setup.name}: nothing lost or refused up to {top.rate:,.0f} spans/s"
        if top
        else f"{setup.name}: no rate without loss"
    )
    if not last.sound:
        return f"{text}; {last.wanted:,} wanted: {last.refused:,} refused, {last.lost:,} lost of what was accepted."
    if last.reached:
        return f"{text}, the highest rate tried."
    limit = (
        "the Collector's core was full"
        if last.core > 0.9
        else "the sender, one connection on the same machine, came no faster"
    )
    return f"{text}; {last.wanted:,} wanted: {limit}."


def main() -> None:
    options = harness.arguments(__doc__, seconds=10)
    payload = traces(2 if options.quick else 20)
    setups = (
        [replace(each, rates=each.rates[:1], held=min(each.held, 1.0)) for each in SETUPS] if options.quick else SETUPS
    )
    with tempfile.TemporaryDirectory() as folder:
        measured = [(setup, climb(Path(folder), setup, float(options.seconds), payload)) for setup in setups]
    rows: list[list[str | float | None]] = [
        [(f"{setup.name}, {f.wanted:,} spans/s "
         "wanted"), f.rate, f.us, f.core * 100, f.mib, f.lost, f.refused, f.bytes_in, f.bytes_out,
         f.sender * 100]
        for setup, found in measured for f in found
    ]  # fmt: skip
    agent = best(measured[0][1])
    text = f"{agent.us:.1f} us at {agent.rate:,.0f} spans/s" if agent else "no rate without loss"
    steps = FRAMES * STEPS
    parts = [part for trace in payload for part in trace.parts]
    plain, packed = (
        sum(map(len, parts)) / len(payload) / steps,
        sum(len(gzip.compress(part)) for part in parts) / len(payload) / steps,
    )
    harness.Report(
        "pipeline",
        "The Collector with each shipped configuration (GOMAXPROCS=1, file-backed queue) at a rate of spans",
        "",
        [
            "configuration and load",
            "spans/s",
            "CPU us/span",
            "CPU % of a core",
            "RSS MiB",
            "lost",
            "refused",
            "bytes/span in",
            "bytes/span out",
            "sender's CPU %",
        ],
        rows,
        [harness.Goal("whole agent config under 10 us a span", agent is not None and agent.us < 10, text)],
        notes=[
            *(verdict(setup, found) for setup, found in measured),
            (
                "Lost: accepted, promised by the configuration (the gateway's share, decided by the trace ids), and "
                "not come out."
            ),
            f"The gateway held every trace for {measured[-1][0].held:g} s before it judged it.",
            (
                f"A trace of 10 s has {sum(t.spans for t in payload) / len(payload):.0f} spans for {steps} steps: "
                f"{plain:.0f} bytes a step on the wire, {packed:.0f} with gzip."
            ),
        ],
        raw={setup.name: [asdict(f) for f in found] for setup, found in measured},
    ).write(options.out)


if __name__ == "__main__":
    main()
