"""Who is the limit, on a real card: each case made on purpose, the sampled truth and its cost, NVML, 1, 2 and 4
processes, and what observing costs at eight streams.

Run by ``python -m benchmarks.card``, or with the names of some PARTS behind it; tools/gpu_card.sh runs it with the
rest. What one part cannot do is said in its place, and the others go on: a card is rarely to be had.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks import card_cost, card_limit, gpu, harness
from benchmarks.card_limit import Row
from benchmarks.card_workers import answer, ask, serve_worker, worker
from benchmarks.gpu import Subject
from vibevoice_otel import semconv
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.metrics import nvml
from vibevoice_otel.recording.device.interface import Device
from vibevoice_otel.recording.device.profile import Sample, Sampler, Taken
from vibevoice_otel.recording.timeline import Timeline
from vibevoice_otel.semconv import SAMPLE_RATE_HZ

FRAME_AUDIO_SECONDS = 3200 / SAMPLE_RATE_HZ
PROCESSES = (1, 2, 4)
ROUND_SECONDS = 8.0
PARTS = ("limit", "sample", "nvml", "processes", "cost")


# ----------------------------------------------------------------------------------------------------------- the sample


class Once(Sampler):
    """Samples one frame of the next generation, and of no other, whoever else speaks."""

    def __init__(self) -> None:
        super().__init__(None, lambda: 1)
        self.armed = True

    def of(self, timeline: Timeline, device: Device, placed: dict[int, Taken | None]) -> Sample | None:
        if not self.armed:
            return None
        self.armed = False
        timeline.profiled = True
        return Sample(device, lambda: True, placed)


def sampled(subject: Subject, frames: int, streams: int = 1) -> tuple[dict[str, float], list[float]]:
    """(what a sampled frame tells, seconds of the frames of the streams that were not sampled)."""
    with gpu.observed() as kept:
        recorder = VibeVoiceInstrumentor().recorder
        assert recorder is not None
        recorder.sampler = Once()
        with ThreadPoolExecutor(streams) as pool:
            for each in [pool.submit(subject.speak, frames, seed) for seed in range(streams)]:
                each.result()
        recorder.flush(60)
        blocks = [block for batch in kept.batches for block in batch.blocks if block.span is semconv.FRAME]
    found: dict[str, float] = {}
    others: list[float] = []
    for block in blocks:
        own = {name: float(np.nanmax(block.measures[name])) for name in semconv.KERNEL_SHARES if name in block.measures}
        found.update(own)
        if not own:
            others += block.seconds.tolist()
    return found, others


def sample(subject: Subject, frames: int) -> tuple[list[Row], list[harness.Goal], dict[str, Any]]:
    """What the sample finds beside the whole trace, what it costs, and the worst gap of a stream beside it."""
    first, _ = sampled(subject, frames)
    later = [sampled(subject, frames)[0] for _ in range(3)]
    if not first or not all(later):
        raise RuntimeError("no sample was taken: has torch's profiler access to the card (CUPTI)?")
    truth = [each for each in gpu.truths(gpu.profiled(subject, frames)) if each is not None]
    _, quiet = sampled_beside(subject, frames, sample=False)
    beside, disturbed = sampled_beside(subject, frames, sample=True)
    steps = statistics.median(each["share_steps"] for each in later)
    rows: list[Row] = [
        ["kernels at work, of a frame", f"{statistics.median(each['share_frame'] for each in later):.1%}", None],
        ["kernels at work, of its steps", f"{steps:.1%}", None],
        [
            "kernels at work, of its passes",
            f"{statistics.median(each.get('share_passes', 0.0) for each in later):.1%}",
            None,
        ],
        [
            "kernels at work, of its decode",
            f"{statistics.median(each.get('share_decode', 0.0) for each in later):.1%}",
            None,
        ],
        ["the first sample's start and stop, ms", first["sample_cost"] * 1e3, None],
        ["a later sample's start and stop, ms", statistics.median(each["sample_cost"] for each in later) * 1e3, None],
        ["reading a sample, ms", statistics.median(each["sample_read"] for each in later) * 1e3, None],
        [
            "longest frame of a stream beside another, ms",
            max(quiet) * 1e3,
            f"median {statistics.median(quiet) * 1e3:.0f}",
        ],
        [
            "longest frame of a stream beside a sampled one, ms",
            max(disturbed) * 1e3,
            f"median {statistics.median(disturbed) * 1e3:.0f}",
        ],
    ]
    whole = sum(each.busy for each in truth) / sum(each.interval for each in truth)
    goals = [
        harness.Goal(
            "the sample's share of the steps is that of a whole trace of CPU and card",
            0.5 * whole <= steps <= 2 * whole + 0.02,
            f"{steps:.1%} sampled, {whole:.1%} in the trace, whose recording of the CPU's calls slows the host",
        )
    ]
    return rows, goals, {"first": first, "later": later, "quiet_s": quiet, "disturbed_s": disturbed, "beside": beside}


def sampled_beside(subject: Subject, frames: int, *, sample: bool) -> tuple[dict[str, float], list[float]]:
    """Two streams at once, one of them sampled or none."""
    if sample:
        return sampled(subject, frames, streams=2)
    with gpu.observed() as kept:
        with ThreadPoolExecutor(2) as pool:
            for each in [pool.submit(subject.speak, frames, seed) for seed in range(2)]:
                each.result()
        recorder = VibeVoiceInstrumentor().recorder
        assert recorder is not None
        recorder.flush(60)
        return {}, [
            seconds
            for batch in kept.batches
            for block in batch.blocks
            if block.span is semconv.FRAME
            for seconds in block.seconds.tolist()
        ]


# ----------------------------------------------------------------------------------------------------------------- NVML


def cards(subject: Subject, frames: int) -> tuple[list[Row], list[harness.Goal], dict[str, Any]]:
    """What NVML tells before and after a generation, under the card's UUID."""
    cards = nvml.Cards()
    began = time.perf_counter()
    before = cards()
    first = time.perf_counter() - began
    if not before:
        raise RuntimeError("NVML told nothing: no binding, no library, or no such card")
    at, powers = time.monotonic(), []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.25):
            powers.extend(value for value, _ in cards.gauge(semconv.HW_POWER))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        subject.speak(frames)
    finally:
        stop.set()
        watching.join()
    time.sleep(nvml.FRESH)
    began = time.perf_counter()
    after = cards()
    look, seconds = time.perf_counter() - began, time.monotonic() - at
    labels = after[0][1]
    own = {
        metric: value
        for metric, _, value in after
        if metric not in {semconv.GPU_CLOCK, semconv.GPU_THROTTLED, semconv.HW_ERRORS}
    }
    clocks, throttled, errors = (
        {told[label.key]: value for each, told, value in after if each is metric}
        for metric, label in (
            (semconv.GPU_CLOCK, semconv.M_CLOCK_DOMAIN),
            (semconv.GPU_THROTTLED, semconv.M_THROTTLE_REASON),
            (semconv.HW_ERRORS, semconv.M_HW_ERROR),
        )
    )
    rows: list[Row] = [[f"NVML, {metric.name}", value, metric.unit] for metric, value in own.items()]
    rows += [[f"NVML, clock {name}, MHz", value / 1e6, None] for name, value in clocks.items()]
    rows += [["NVML, the first look, ms", first * 1e3, None], ["NVML, a look, ms", look * 1e3, None]]
    goals = [
        harness.Goal(
            "NVML finds torch's card by its UUID", labels["hw.id"].startswith(("GPU-", "MIG-")), labels["hw.id"]
        )
    ]
    drawn = own.get(semconv.HW_ENERGY, 0.0) - sum(value for each, _, value in before if each is semconv.HW_ENERGY)
    if drawn > 0 and powers:
        by_power = statistics.fmean(powers) * seconds
        rows.append(
            ["joules a second of audio", drawn / (frames * FRAME_AUDIO_SECONDS), f"{drawn:.0f} J in {seconds:.1f} s"]
        )
        goals.append(
            harness.Goal(
                "energy is power times time, within 15 %",
                abs(drawn / by_power - 1) < 0.15,
                f"{drawn:.0f} J counted, {by_power:.0f} J by power",
            )
        )
    raw = {"labels": labels, "throttled": throttled, "errors": errors, "power_w": powers}
    return rows, goals, raw


# ------------------------------------------------------------------------------------------------------------ processes


def processes(share: float | None, seconds: float) -> tuple[list[Row], list[harness.Goal], dict[str, Any]]:
    """Frames a second of 1, 2 and 4 processes with one stream each, beside what the kernels' share allows."""
    rates: dict[int, list[float]] = {}
    workers = [worker("speak") for _ in range(max(PROCESSES))]
    started: list[subprocess.Popen[str]] = []
    try:
        started = [each.__enter__() for each in workers]
        for each in started:
            answer(each)
        for count in PROCESSES:
            for each in started[:count]:
                ask(each, f"go {seconds}")
            told = [answer(each) for each in started[:count]]
            rates[count] = [int(frames) / float(taken) for _, frames, taken in told]
    finally:
        for each in workers:
            each.__exit__(None, None, None)
    one = sum(rates[1])
    rows: list[Row] = []
    goals: list[harness.Goal] = []
    for count, each in rates.items():
        rows.append(
            [
                f"{count} processes, frames a second",
                sum(each),
                f"{sum(each) / one:.2f} x one; each {min(each):.2f} .. {max(each):.2f}",
            ]
        )
    if share:
        rows.append(
            ["processes that the kernels would carry, at most", 1 / share, f"kernels at work in {share:.1%} of a frame"]
        )
        for count in PROCESSES[1:]:
            most = min(count, 1 / share) * 1.1
            goals.append(
                harness.Goal(
                    f"{count} processes make at most what the kernels' share allows",
                    sum(rates[count]) <= most * one,
                    f"{sum(rates[count]) / one:.2f} x one process, allowed {most:.2f} (a tenth for the rounds' own "
                    "spread)",
                )
            )
    return rows, goals, {"frames_per_second": rates}


# ----------------------------------------------------------------------------------------------------------------- main


def build() -> Subject:
    import torch

    return Subject.build("cuda", tiny=torch.cuda.mem_get_info(0)[0] < gpu.NEEDED_BYTES)


def main() -> None:
    import torch

    if sys.argv[1:2] == ["--worker"]:
        serve_worker(sys.argv[2], build)
        return
    chosen = [word for word in sys.argv[1:] if word in PARTS]
    sys.argv[1:] = [word for word in sys.argv[1:] if word not in PARTS]
    options = harness.arguments(__doc__ or "", frames=8)
    missing = gpu.no_card()
    if missing is not None:
        raise SystemExit(f"benchmarks.card {missing}")
    subject = build()
    subject.speak(4)
    rows: list[Row] = []
    goals: list[harness.Goal] = []
    notes: list[str] = []
    raw: dict[str, Any] = {"card": torch.cuda.get_device_name(0), "model": subject.name}

    def share() -> float | None:
        later = raw.get("sample", {}).get("later")
        return statistics.median(each["share_frame"] for each in later) if later else None

    parts: dict[str, Callable[[], tuple[list[Row], list[harness.Goal], dict[str, Any]]]] = {
        "limit": lambda: card_limit.cases(subject, options.frames, card_limit.SLOW_MS),
        "sample": lambda: sample(subject, options.frames),
        "nvml": lambda: cards(subject, options.frames),
        "processes": lambda: processes(share(), ROUND_SECONDS),
        "cost": lambda: card_cost.cost(subject, card_cost.SECONDS),
    }
    for name, part in parts.items():
        if chosen and name not in chosen:
            continue
        began = time.perf_counter()
        try:
            found = part()
        except Exception as error:  # noqa: BLE001 - said in the report, and the other parts go on
            traceback.print_exc()
            notes.append(f"{name}: not done ({type(error).__name__}: {error})")
            continue
        rows += found[0]
        goals += found[1]
        raw[name] = found[2]
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        report(options, raw, rows, goals, notes)
    report(options, raw, rows, goals, notes)


def report(options: Any, raw: dict[str, Any], rows: list[Row], goals: list[harness.Goal], notes: list[str]) -> None:
    """Written after each part: whatever ends the run, what was found stays."""
    title = f"{raw['card']}, {raw['model']}, {gpu.STEPS} steps a frame"
    harness.Report("card", title, "", ["what", "found", "beside"], rows, goals, notes, raw).write(options.out)


if __name__ == "__main__":
    main()
