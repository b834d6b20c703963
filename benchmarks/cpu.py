"""Whole CPU cost per diffusion step: hot path and background, to OTLP bytes and histograms with exemplars.

Every contender makes the same spans: those of the request, its preparation, frames, decodes, language-model passes and
steps. The figure is the process's CPU time for all of it, a collection of the metrics at the end included, over the
number of steps, less what the bare loop takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from opentelemetry.sdk.trace import SpanProcessor

from benchmarks import harness
from benchmarks.naive import Naive
from benchmarks.replay import STEPS, Model, speak
from benchmarks.telemetry import observed, providers

#: Name -> frames of a request and steps of a frame: 2, 10 and 60 seconds of audio at the realtime server's 5 steps, and
#: 10 seconds at 20.
CASES = {"2 s": (15, STEPS), "10 s": (75, STEPS), "60 s": (450, STEPS), "10 s at 20 steps": (75, 20)}


def bare(frames: int, each: int, requests: int) -> Callable[[], float]:
    model = Model()

    def run() -> float:
        started = time.process_time()
        for _ in range(requests):
            for _ in range(frames):
                model.frame(each)
                model.chunk()
        return time.process_time() - started

    return run


def naive(frames: int, each: int, requests: int, *, traced: bool) -> Callable[[], float]:
    tracer_provider, meter_provider, reader, _ = providers(traced=traced)
    contender = Naive(tracer_provider, meter_provider)

    def run() -> float:
        started = time.process_time()
        for _ in range(requests):
            contender.speak(frames, each)
        tracer_provider.force_flush()
        reader.get_metrics_data()
        return time.process_time() - started

    return run


def ours(
    frames: int, each: int, requests: int, *, traced: bool, fast: bool, foreign: bool = False
) -> Callable[[], float]:
    stack, model = observed(traced=traced, fast_path=fast), Model.observed()
    if foreign:
        stack.tracer_provider.add_span_processor(SpanProcessor())

    def run() -> float:
        started = time.process_time()
        for _ in range(requests):
            speak(stack.recorder, model, frames, each)
        stack.flush()
        return time.process_time() - started

    return run


def main() -> None:
    options = harness.arguments(__doc__.splitlines()[0], rounds=9, steps=6000)
    rows: list[list[str | float | None]] = []
    goals: list[harness.Goal] = []
    raw: dict[str, object] = {}
    for length, (frames, each) in CASES.items():
        requests = max(1, options.steps // (frames * each))
        work = (frames, each, requests)
        steps = requests * frames * each
        contenders = {"bare": bare(*work)}
        for traced in (True, False):
            word = "traced" if traced else "not traced"
            contenders[f"naive, {word}"] = naive(*work, traced=traced)
            contenders[f"ours plain, {word}"] = ours(*work, traced=traced, fast=False)
            contenders[f"ours fast, {word}"] = ours(*work, traced=traced, fast=True)
        contenders["ours fast beside a foreign span processor, traced"] = ours(
            *work, traced=True, fast=True, foreign=True
        )
        found = harness.alternate(contenders, options.rounds)
        floor = found["bare"]
        cost = {
            name: harness.Series(
                name, [(v - f) / steps * 1e6 for v, f in zip(series.values, floor.values, strict=True)]
            )
            for name, series in found.items()
            if name != "bare"
        }
        for name, series in cost.items():
            against = cost["naive, traced" if "not" not in name else "naive, not traced"]
            rows.append(
                [f"{length}: {name}", series.median, harness.spread(series), harness.ratio(against, series).median]
            )
        raw[length] = {name: series.values for name, series in cost.items()}
        for word, limit in (("traced", 3.0), ("not traced", 2.0)):
            value = cost[f"ours fast, {word}"].median
            goals.append(
                harness.Goal(
                    f"{length} requests, {word}: at most {limit:g} us a step", value <= limit, f"{value:.2f} us"
                )
            )
    harness.Report(
        "cpu", "Whole CPU cost per diffusion step, microseconds (all of a request shared out over its steps, 5 to a "
               "frame where not said)",
        "us", ["contender", "median", "quartiles", "naive / this"], rows, goals, raw=raw,
    ).write(options.out)  # fmt: skip


if __name__ == "__main__":
    main()
