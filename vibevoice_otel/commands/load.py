"""``vibevoice-otel load``: how many streams a service holds, found by driving it with listeners, step by step.

A *stream* is a listener being spoken to, as in ``vibevoice-otel insight capacity``: at N streams requests come as often
as keeps N listeners listening on average. They come independently of each other, as people with their own thinking
times do, at moments that are fixed beforehand; a step whose own requests left more than 20 ms late is void, for it
measured the machine that drives. The first step that misses the objective ends the climb, and the numbers between it
and the one before are tried. W3C baggage marks the requests as synthetic unless --count-them is given: then they are in
the service's metrics, and ``--prometheus`` holds the answer of ``insight capacity`` against what was found. Only this
machine is driven unless --remote is given.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import math
import random
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vibevoice_otel import semconv
from vibevoice_otel.commands import clients
from vibevoice_otel.commands.clients import Client, Outcome
from vibevoice_otel.commands.probe import SYNTHETIC_BAGGAGE
from vibevoice_otel.semconv import Status

#: A request that left later than this after its moment voids its step, seconds.
LATEST = 0.02
#: No step opens more sockets than this times its streams; what would is a service that has stopped to answer.
MOST_OPEN = 8
MOST_STREAMS = 256
MOST_SECONDS = 3600.0
MOST_REQUESTS = 20_000
#: Below so many requests a step's shares say nothing.
LEAST_REQUESTS = 20
TEXTS = (
    "Good morning.",
    "The next train to the coast leaves from platform four in twelve minutes.",
    (
        "Thank you for calling. I have found your order, and it is on its way to you: it should arrive before noon "
        "tomorrow."
    ),
)


#: One request: seconds that it left after its moment, and what its listener lived through.
Heard = tuple[float, Outcome]


@dataclass(slots=True)
class Step:
    """What came of one number of streams."""

    streams: float
    requests: int = 0
    failed: int = 0
    slow: int = 0  # first audio later than the objective, or none
    gaps: int = 0  # a silence above the objective's limit
    first_median: float | None = None
    first_p95: float | None = None
    latest: float = 0.0
    verdict: str = "void"
    why: str = ""


@dataclass(slots=True)
class Found:
    """The answer: the largest number that met the objective, and the least that did not; None where none was seen."""

    holds: float | None
    breaks: float | None
    steps: list[Step] = field(default_factory=list)
    predicted: dict[str, Any] | None = None


@dataclass
class Driver:
    """Runs steps against one service: what to drive, and what is good enough."""

    client: Client
    voices: tuple[str, ...]
    texts: tuple[str, ...]
    seconds: float
    slo: float
    gap: float
    timeout: float
    headers: dict[str, str]
    chance: random.Random
    audio: float = 0.0  # mean seconds of a request, as calibrated

    async def calibrate(self) -> None:
        """Hear each text once, alone: how long requests are decides how often they must come.

        Raises:
            RuntimeError: when the service does not speak.
        """
        heard = [await self._request(self.voices[0] if self.voices else None, text, 0.0) for text in self.texts]
        failed = next((each for _, each in heard if each.status is not Status.SUCCESS), None)
        if failed is not None:
            raise RuntimeError(f"the service does not speak: {failed.came or failed.error_type or failed.status.value}")
        seconds = [each.audio_seconds for _, each in heard if each.audio_seconds is not None]
        if len(seconds) < len(heard):
            raise RuntimeError(
                "the format does not tell how long its audio is, so neither how often requests must come nor where "
                "gaps are: --response-format wav"
            )
        self.audio = sum(seconds) / len(seconds)

    async def step(self, streams: float, progress: Any = None) -> Step:
        """Drive ``streams`` for as many seconds as a step has."""
        moments = self._moments(streams / self.audio)
        began, running, heard, overrun = time.perf_counter(), set[asyncio.Task[Heard]](), list[Heard](), 0

        def ended(task: asyncio.Task[Heard]) -> None:
            running.discard(task)
            heard.append(task.result())

        for moment in moments:
            await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
            if progress is not None:
                progress(moment)
            if len(running) >= MOST_OPEN * max(1.0, streams):
                overrun += 1
                continue
            voice = self.chance.choice(self.voices) if self.voices else None
            late = max(0.0, time.perf_counter() - began - moment)
            task = asyncio.create_task(self._request(voice, self.chance.choice(self.texts), late))
            running.add(task)
            task.add_done_callback(ended)
        while running:
            await asyncio.wait(set(running))
        return self._judge(streams, heard, overrun)

    def _moments(self, rate: float) -> list[float]:
        """Arrivals of independent listeners within a step's seconds."""
        between = (self.chance.expovariate(rate) for _ in range(MOST_REQUESTS))
        return list(takewhile(lambda at: at < self.seconds, accumulate(between)))

    async def _request(self, voice: str | None, text: str, late: float) -> Heard:
        return late, await clients.speak(self.client, text, voice, self.headers, self.timeout)

    def _judge(self, streams: float, heard: Sequence[Heard], overrun: int) -> Step:
        count, outcomes = len(heard) + overrun, [outcome for _, outcome in heard]
        step = Step(streams, count, failed=sum(each.status is not Status.SUCCESS for each in outcomes) + overrun)
        step.slow = overrun + sum(each.first_audio is None or each.first_audio > self.slo for each in outcomes)
        step.gaps = sum(each.worst_gap is not None and each.worst_gap > self.gap for each in outcomes)
        firsts = sorted(each.first_audio for each in outcomes if each.first_audio is not None)
        if firsts:
            step.first_median, step.first_p95 = (
                firsts[min(len(firsts) - 1, int(q * len(firsts)))] for q in (0.5, 0.95)
            )
        step.latest = max((late for late, _ in heard), default=0.0)
        if step.latest > LATEST:
            step.why = f"a request left {step.latest * 1e3:.0f} ms late: this machine, not the service"
        elif count < LEAST_REQUESTS:
            step.why = f"{count} requests, at least {LEAST_REQUESTS} are needed: drive it for longer (--seconds)"
        else:
            missed = []
            if step.slow > (1 - semconv.SLO_FIRST_AUDIO_RATIO) * count:
                missed.append(f"{step.slow / count:.1%} of first audio later than {self.slo:g} s")
            if step.gaps > (1 - semconv.SLO_GAP_RATIO) * count:
                missed.append(f"{step.gaps / count:.1%} with a gap above {self.gap:g} s")
            step.verdict, step.why = ("broken", "; ".join(missed)) if missed else ("holds", "")
        return step


async def climb(driver: Driver, numbers: Sequence[int], refine: int, watch: Any = None) -> Found:
    """Drive each number in turn until one breaks, then ``refine`` numbers between it and the one before, halving."""
    await driver.calibrate()
    found = Found(None, None)

    async def run(streams: float) -> str:
        step = await driver.step(streams, watch(streams) if watch is not None else None)
        found.steps.append(step)
        if step.verdict == "holds":
            found.holds = max(found.holds or 0.0, streams)
        elif step.verdict == "broken":
            found.breaks = min(found.breaks or math.inf, streams)
        return step.verdict

    for streams in numbers:
        if await run(float(streams)) == "broken":
            break
    for _ in range(refine if found.breaks is not None else 0):
        low, high = found.holds or 0.0, float(found.breaks or 0.0)
        if high - low < 0.5:
            break
        if await run((low + high) / 2) == "void":
            break
    return found


def predict(prometheus: str, seconds: float, found: Found) -> dict[str, Any]:
    """What ``insight capacity`` says of the time driven, beside what was found.

    Raises:
        vibevoice_otel.insight.source.SourceError: when the store cannot be read.
    """
    from vibevoice_otel.insight.capacities import capacity  # noqa: PLC0415 - belongs to the insight extra
    from vibevoice_otel.insight.prometheus import PrometheusSource  # noqa: PLC0415

    cards = capacity(PrometheusSource(prometheus, window=seconds)).cards
    if not cards or cards[0].streams is None:
        return {"streams": None, "low": None, "high": None, "agrees": None}
    card = cards[0]
    low, high = card.low or 0, math.inf if card.high is None else card.high
    agrees = None
    if found.holds is not None and found.breaks is not None:  # the knee lies between the two
        agrees = low <= found.breaks and high + 1 >= found.holds
    return {"streams": card.streams, "low": card.low, "high": card.high, "binds": card.binds_first, "agrees": agrees}


def local(address: str) -> bool:
    """Whether every address of the host is this machine's own."""
    parts = urlsplit(address)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)


# ---------------------------------------------------------------------------------------------------------- the command


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= MOST_STREAMS for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r}: allowed are whole numbers from 1 to {MOST_STREAMS}, such as 1,2,4,8"
        )
    return tuple(sorted({int(part) for part in parts}))


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    found = argparse.ArgumentParser(
        prog="vibevoice-otel load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    clients.add_options(found)
    add("--streams", type=_numbers, default=(1, 2, 4, 8), metavar="N,N,...", help="numbers of streams to try (1,2,4,8)")
    add("--seconds", type=clients.seconds(1, 600), default=60.0, help="for each number (60)")
    add(
        "--refine",
        type=int,
        choices=range(5),
        default=2,
        help="numbers to try between the last good and the first bad (2)",
    )
    add("--voice", action="append", default=[], help="a voice to ask for; may be repeated")
    add("--texts", type=Path, help="a file of texts, one a line (three of our own)")
    slo, gap = semconv.SLO_FIRST_AUDIO_SECONDS, semconv.SLO_GAP_SECONDS
    add("--slo", type=clients.seconds(0.001, 60), default=slo, help=f"first-audio objective in seconds ({slo:g})")
    add("--gap", type=clients.seconds(0.001, 60), default=gap, help=f"longest silence that is good, seconds ({gap:g})")
    add("--timeout", type=clients.seconds(1, 600), default=60.0, help="when a request has failed (60)")
    add("--count-them", action="store_true", help="not marked as synthetic: they count in the service's metrics")
    add(
        "--prometheus", metavar="URL", help="hold insight capacity's answer against what was found (needs --count-them)"
    )
    add("--remote", action="store_true", help="the service is on another machine, and yours to load")
    add("--seed", type=int, default=0, help="of the moments, texts and voices")
    add("--json", action="store_true", help="for machines")
    add("--plot", type=Path, metavar="FILE.png", help="a picture as well")
    return found


def main(argv: list[str] | None = None) -> int:
    """Climb; 0 when the number was found or everything held, 1 when nothing could be said, 2 for wrong use."""
    chosen = parser().parse_args(argv)
    wrong = None
    if not chosen.remote and not local(chosen.url):
        wrong = "the address is not this machine's: --remote drives another one, if it is yours to load"
    elif (len(chosen.streams) + chosen.refine) * chosen.seconds > MOST_SECONDS:
        wrong = f"that may take more than {MOST_SECONDS / 60:.0f} minutes: fewer --streams, or fewer --seconds"
    elif chosen.prometheus and not chosen.count_them:
        wrong = "--prometheus needs --count-them: synthetic requests are in no metric"
    if wrong is not None:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    texts = TEXTS
    if chosen.texts is not None:
        texts = tuple(line.strip() for line in chosen.texts.read_text().splitlines() if line.strip())[:1000] or TEXTS
    headers = dict(chosen.header) | ({} if chosen.count_them else {"baggage": SYNTHETIC_BAGGAGE})
    driver = Driver(
        clients.chosen_client(chosen), tuple(chosen.voice), texts, chosen.seconds, chosen.slo,
        chosen.gap, chosen.timeout, headers,
        random.Random(chosen.seed),  # noqa: S311 - traffic, not a secret
    )  # fmt: skip
    began = time.time()
    try:
        found = asyncio.run(_watched(driver, chosen.streams, chosen.refine, quiet=chosen.json))
        if chosen.prometheus:
            found.predicted = predict(chosen.prometheus, time.time() - began, found)
    except Exception as error:  # noqa: BLE001 - said to the person at the terminal
        print(f"error: {error}", file=sys.stderr)
        return 1
    if chosen.json:
        print(json.dumps(asdict(found), indent=1))
    else:
        show(found, Console())
    if chosen.plot is not None:
        draw(found, driver.slo, chosen.plot)
    return 0 if found.holds is not None or found.breaks is not None else 1


async def _watched(driver: Driver, numbers: Sequence[int], refine: int, *, quiet: bool) -> Found:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:

        def watch(streams: float) -> Any:
            task = bar.add_task(f"{streams:g} streams", total=driver.seconds)
            return lambda moment: bar.update(task, completed=moment)

        return await climb(driver, numbers, refine, watch)


def show(found: Found, console: Console) -> None:
    """The table, and the answer in one line."""
    table = Table("streams", "requests", "failed", "first audio, median", "P95", "late", "gaps", "verdict", "because")
    for step in sorted(found.steps, key=lambda each: each.streams):
        first, p95 = (f"{value:.3f} s" if value is not None else "-" for value in (step.first_median, step.first_p95))
        table.add_row(
            f"{step.streams:g}", str(step.requests), str(step.failed), first, p95,
            f"{step.slow / max(step.requests, 1):.1%}",
            f"{step.gaps / max(step.requests, 1):.1%}", step.verdict, step.why,
        )  # fmt: skip
    console.print(table)
    if found.breaks is None:
        console.print(
            f"It holds {found.holds:g} streams, the most that was tried."
            if found.holds is not None
            else "Nothing can be said."
        )
    else:
        console.print(f"It holds {found.holds or 0:g} streams and breaks at {found.breaks:g}.")
    if found.predicted is not None:
        told = found.predicted
        if told["streams"] is None:
            console.print("insight capacity cannot say.")
        else:
            high = "up" if told["high"] is None else told["high"]
            agrees = {True: "agrees", False: "does not agree", None: "cannot be compared"}[told["agrees"]]
            console.print(
                f"insight capacity says {told['streams']} ({told['low']} to {high}; {told['binds']} binds first): it "
                f"{agrees}."
            )


def draw(found: Found, slo: float, path: Path) -> None:
    """First audio against streams, with the objective."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - belongs to the insight extra

    steps = sorted((each for each in found.steps if each.first_p95 is not None), key=lambda each: each.streams)
    figure = Figure(figsize=(7, 4))
    axes: Any = figure.subplots()
    for name, values in (
        ("median", [each.first_median for each in steps]),
        ("P95", [each.first_p95 for each in steps]),
    ):
        axes.plot([each.streams for each in steps], values, marker="o", label=name)
    axes.axhline(slo, linestyle="--", color="tab:red", label="objective")
    if found.breaks is not None:
        axes.axvspan(found.holds or 0, found.breaks, alpha=0.15, label="it breaks here")
    axes.set(xlabel="streams", ylabel="first audio, s", ylim=(0, None), title="First audio against streams")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
