"""End to end: the embedded service's real model, saturated and paced, with no telemetry, the stock one, naive spans and
ours.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import ExitStack

from benchmarks import harness
from benchmarks.servers import NONE, OURS, PAGE, SPANS, STOCK, Receiver, Server, serve
from vibevoice_otel.commands.clients import Outcome, WebSocketClient, speak
from vibevoice_otel.semconv import Status

TEXT = "A short sentence that takes a couple of seconds to say."
KINDS = (NONE, STOCK, SPANS, OURS, PAGE)
#: A diffusion step that waits as for a GPU: five of them, the passes and the decode take about as long as the frame
#: lasts.
PACED = {"VIBEVOICE_SERVICE_FAULTS": '{"step_delay": 0.02}'}


async def listeners(server: Server, streams: int, requests: int) -> list[Outcome]:
    client = WebSocketClient(f"{server.base}/stream?cfg=1.5&steps=5")

    async def one() -> list[Outcome]:
        return [await speak(client, TEXT, "en-Carter_man", {}, 120.0) for _ in range(requests)]

    return [heard for each in await asyncio.gather(*(one() for _ in range(streams))) for heard in each]


class Measured:
    """One contender's rounds, three figures each."""

    def __init__(self, server: Server, streams: int, requests: int) -> None:
        self._server, self._streams, self._requests = server, streams, requests
        self.cpu: list[float] = []
        self.rate: list[float] = []
        self.first: list[float] = []

    def round(self) -> float:
        """CPU seconds of the service for each second of audio; the clock's figures are kept beside it."""
        cpu, began = self._server.cpu(), time.perf_counter()
        heard = asyncio.run(listeners(self._server, self._streams, self._requests))
        spent, seconds = self._server.cpu() - cpu, time.perf_counter() - began
        failed = [each for each in heard if each.status is not Status.SUCCESS]
        if failed:
            raise RuntimeError(f"{len(failed)} requests failed, the first: {failed[0]}")
        self.cpu.append(spent / (sum(each.audio_bytes for each in heard) / 48_000))
        self.rate.append(len(heard) / seconds)
        self.first.append(statistics.median(each.first_audio or 0.0 for each in heard))
        return self.cpu[-1]


def compare(
    title: str, streams: int, requests: int, rounds: int, service: dict[str, str]
) -> tuple[list[list[str | float | None]], dict[str, Measured]]:
    with ExitStack() as running, Receiver() as receiver:
        measured = {
            kind: Measured(running.enter_context(serve(kind, receiver.endpoint, service)), streams, requests)
            for kind in KINDS
        }
        harness.alternate({kind: each.round for kind, each in measured.items()}, rounds)
    for each in measured.values():  # the first round was warm-up
        del each.cpu[0], each.rate[0], each.first[0]
    rows: list[list[str | float | None]] = []
    base = measured[NONE]
    for kind, each in measured.items():
        cpu = [a / b - 1 for a, b in zip(each.cpu, base.cpu, strict=True)]
        rate = [a / b - 1 for a, b in zip(each.rate, base.rate, strict=True)]
        first = [a / b - 1 for a, b in zip(each.first, base.first, strict=True)]
        rows.append(
            [f"{title}: {kind}", statistics.median(each.cpu) * 1000, harness.percent(cpu), statistics.median(each.rate),
             harness.percent(rate), statistics.median(each.first) * 1000, harness.percent(first)]
        )  # fmt: skip
    return rows, measured


def _raw(measured: dict[str, Measured]) -> dict[str, dict[str, list[float]]]:
    return {kind: {"cpu": each.cpu, "rate": each.rate, "first": each.first} for kind, each in measured.items()}


def _more(measured: dict[str, Measured], kind: str, base: str = NONE) -> list[float]:
    """How much more CPU a second of audio takes, round by round."""
    return [a / b - 1 for a, b in zip(measured[kind].cpu, measured[base].cpu, strict=True)]


def main() -> None:
    options = harness.arguments(__doc__, rounds=40, requests=1)
    rows, saturated = compare("saturated", 2, options.requests, options.rounds, {})
    more, paced = compare("paced", 2, options.requests, options.rounds, PACED)
    noise = [harness.quantile(paced[NONE].cpu, q) / statistics.median(paced[NONE].cpu) - 1 for q in (0.25, 0.75)]
    spread = max(abs(n) for n in noise)
    # A goal is met where the whole interval lies within it: a median that a noisy machine happened to give is no proof.
    goals = [
        harness.Goal(text, harness.interval(found)[1] <= limit, harness.percent(found) + note)
        for text, found, limit, note in (
            ("saturated: at most 2 % more CPU", _more(saturated, OURS), 0.02, ""),
            ("saturated: never dearer than stock", _more(saturated, OURS, STOCK), 0.0, " against stock"),
            (
                "paced: below the noise",
                _more(paced, OURS),
                spread,
                f"; quartiles of no telemetry {noise[0]:+.1%} .. {noise[1]:+.1%}",
            ),
            ("paced: never dearer than stock", _more(paced, OURS, STOCK), 0.0, " against stock"),
        )
    ]
    harness.Report(
        "end_to_end", "The embedded service, 2 listeners at once; against no telemetry in the same round: median (its "
                      "95 % interval)", "",
        ["contender", "CPU ms / s of audio", "", "requests/s", "", "first audio ms", ""], [*rows, *more], goals,
        raw={"saturated": _raw(saturated), "paced": _raw(paced)},
    ).write(options.out)  # fmt: skip


if __name__ == "__main__":
    main()
