"""Where the background's CPU time goes: assembling records, deriving metrics, writing spans, ending the request's own
span.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks import harness
from benchmarks.replay import STEPS, Model, speak
from benchmarks.telemetry import observed
from vibevoice_otel.recording.timeline import Timeline

LENGTHS = {"2 s": 15, "10 s": 75, "60 s": 450}


class Held:
    """Takes the place of the recorder's queue, so that its work can be done here, on one thread that is measured."""

    def __init__(self) -> None:
        self.timelines: list[Timeline] = []

    def put(self, timeline: Timeline) -> None:
        self.timelines.append(timeline)

    def get(self, timeout: float | None = None) -> None:
        del timeout
        time.sleep(3600)


def stages(frames: int, requests: int) -> dict[str, float]:
    """Microseconds a request in each stage."""
    stack, model = observed(), Model.observed()
    for _ in range(3):
        speak(stack.recorder, model, frames)
    stack.flush()
    recorder, held = stack.recorder, Held()
    recorder._ended = held  # type: ignore[assignment]
    for _ in range(requests):
        speak(recorder, model, frames)
    spent: dict[str, int] = {}

    def watch(owner: Any, name: str, stage: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def watched(*args: Any) -> Any:
            began = time.thread_time_ns()
            try:
                return inner(*args)
            finally:
                spent[stage] = spent.get(stage, 0) + time.thread_time_ns() - began

        setattr(owner, name, watched)

    budget, judge, metrics, emitter = recorder.sinks
    watch(metrics, "consume", "metrics")
    watch(recorder.emitter._fast, "emit", "spans")
    watch(emitter, "consume", "emitter")
    watch(budget, "consume", "budget")
    watch(judge, "consume", "judge")
    began = time.thread_time_ns()
    for timeline in held.timelines:
        recorder._finish(timeline)
    whole = time.thread_time_ns() - began
    stack.tracer_provider.shutdown()
    found = {
        "records from facts": whole - spent["metrics"] - spent["emitter"] - spent["budget"] - spent["judge"],
        "span budget": spent["budget"],
        "the judge of speech": spent["judge"],
        "histograms and counters": spent["metrics"],
        "spans to bytes": spent["spans"],
        "the request's own span, by the SDK": spent["emitter"] - spent["spans"],
        "together": whole,
    }
    return {stage: nanoseconds / requests / 1000 for stage, nanoseconds in found.items()}


def main() -> None:
    options = harness.arguments(__doc__, rounds=5, steps=6000)
    rows: list[list[str | float | None]] = []
    for length, frames in LENGTHS.items():
        requests = max(2, options.steps // (frames * STEPS))
        each = [stages(frames, requests) for _ in range(options.rounds)]
        for stage in each[0]:
            series = harness.Series(stage, [one[stage] for one in each])
            rows.append([f"{length}: {stage}", series.median, harness.spread(series), series.median / (frames * STEPS)])
    harness.Report(
        "stages", "The background's CPU time of a traced request", "us",
        ["stage", "us / request", "quartiles", "us / step"], rows,
    ).write(options.out)  # fmt: skip


if __name__ == "__main__":
    main()
