"""Whole CPU cost per diffusion step: hot path and background, to OTLP bytes and histograms with exemplars.

Every contender makes the same spans: those of the request, its preparation, frames, decodes, language-model passes and steps. The
figure is the process's CPU time for all of it, a collection of the metrics at the end included, over the number of steps, less what the
bare loop takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from opentelemetry.sdk.trace import SpanProcessor

from benchmarks import harness
from benchmarks.naive import Naive
from benchmarks.replay import STEPS, Model, speak
from benchmarks.telemetry import observed, providers

#: Frames of a request: 2, 10 and 60 seconds of audio.
LENGTHS = {"2 s": 15, "10 s": 75, "60 s": 450}


def bare(frames: int, requests: int) -> Callable[[], float]:
    model = Model()

    def run() -> float:
        started = time.process_time()
        for _ in range(requests):
            for _ in range(frames):
                model.frame()
                model.chunk()
        return time.process_time() - started

    return run


def naive(frames: int, requests: int, *, traced: bool) -> Callable[[], float]:
    tracer_provider, meter_provider, reader, _ = providers(traced=traced)
    contender = Naive(tracer_provider, meter_provider)

    def run() -> float:
        started = time.process_time()
        for _ in range(requests):
            contender.speak(frames)
        tracer_provider.force_flush()
        reader.get_metrics_data()
        return time.process_time() - started

    return run


def ours(frames: int, requests: int, *, traced: bool, fast: bool, foreign: bool = False) -> Callable[[], float]:
    stack, model = observed(traced=traced, fast=fast), Model.observed()
    if foreign:
        stack.tracer_provider.add_span_processor(SpanProcessor())

    def run() -> float:
        started = time.process_time()
        for _ in range(requests):
            speak(stack.recorder, model, frames)
        stack.flush()
        return time.process_time() - started

    return run


def main() -> None:
    options = harness.arguments(__doc__.splitlines()[0], rounds=9, steps=6000)
    rows: list[list[str | float | None]] = []
    goals: list[harness.Goal] = []
    raw: dict[str, object] = {}
    for length, frames in LENGTHS.items():
        requests = max(1, options.steps // (frames * STEPS))
        steps = requests * frames * STEPS
        contenders = {"bare": bare(frames, requests)}
        for traced in (True, False):
            word = "traced" if traced else "not traced"
            contenders[f"naive, {word}"] = naive(frames, requests, traced=traced)
            contenders[f"ours plain, {word}"] = ours(frames, requests, traced=traced, fast=False)
            contenders[f"ours fast, {word}"] = ours(frames, requests, traced=traced, fast=True)
        contenders["ours fast beside a foreign span processor, traced"] = ours(frames, requests, traced=True, fast=True, foreign=True)
        found = harness.alternate(contenders, options.rounds)
        floor = found["bare"]
        cost = {
            name: harness.Series(name, [(v - f) / steps * 1e6 for v, f in zip(each.values, floor.values, strict=True)])
            for name, each in found.items()
            if name != "bare"
        }
        for name, each in cost.items():
            against = cost["naive, traced" if "not" not in name else "naive, not traced"]
            rows.append([f"{length}: {name}", each.median, harness.spread(each), harness.ratio(against, each).median])
        raw[length] = {name: each.values for name, each in cost.items()}
        for word, limit in (("traced", 3.0), ("not traced", 2.0)):
            value = cost[f"ours fast, {word}"].median
            goals.append(harness.Goal(f"{length} requests, {word}: at most {limit:g} us a step", value <= limit, f"{value:.2f} us"))
    harness.Report(
        "cpu", "Whole CPU cost per diffusion step, microseconds (5 steps a frame; all of a request shared out over its steps)",
        "us", ["contender", "median", "quartiles", "naive / this"], rows, goals, raw=raw,
    ).write(options.out)  # fmt: skip


if __name__ == "__main__":
    main()
