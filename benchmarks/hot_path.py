"""Hot path: nanoseconds that observing one diffusion step adds to the thread that generates."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import prometheus_client

from benchmarks import harness
from benchmarks.naive import Naive
from benchmarks.replay import STEPS, Model, Scheduler
from benchmarks.telemetry import observed, providers
from vibevoice_otel.recording.clock import Anchor, now
from vibevoice_otel.recording.timeline import Asked, Timeline, bound


def timed(body: Callable[[int], None], steps: int) -> Callable[[], float]:
    """Nanoseconds of this thread's CPU time a step; what background threads do meanwhile is not in it."""

    def run() -> float:
        started = time.thread_time_ns()
        body(steps)
        return (time.thread_time_ns() - started) / steps

    return run


def bare(steps: int) -> None:
    step = Scheduler().step
    for index in range(steps):
        step(None, index, None)


def floor(steps: int) -> None:
    """Two clock reads and an append: the least that knows how long a step took."""
    step, column = Scheduler().step, list[int]()
    for index in range(steps):
        started = now()
        step(None, index, None)
        column.append(now() - started)


def ours(steps: int) -> None:
    """The scheduler's hook as the adapters put it in."""
    with bound(_timeline()):
        step = Model.observed().scheduler.step
        for index in range(steps):
            step(None, index, None)


def ours_frame(steps: int) -> None:
    """With each step's share of all else that a frame notes: entry, base, decode, two passes, audio, connector, a sixth
    of a window.
    """
    model = Model.observed()
    with bound(_timeline()):
        model.begin()
        for _ in range(steps // STEPS):
            model.frame(STEPS)


def bare_frame(steps: int) -> None:
    model = Model()
    for _ in range(steps // STEPS):
        model.frame(STEPS)


def idle(steps: int) -> None:
    """The hook in a program that generates outside any request."""
    step = Model.observed().scheduler.step
    for index in range(steps):
        step(None, index, None)


def prometheus() -> Callable[[int], None]:
    registry = prometheus_client.CollectorRegistry()
    histogram = prometheus_client.Histogram(
        "step_seconds", "One step", ["voice", "step_index", "cfg", "steps"], registry=registry
    )

    def body(steps: int) -> None:
        step = Scheduler().step
        for index in range(steps):
            started = time.perf_counter()
            step(None, index, None)
            histogram.labels("en-Carter_man", str(index % 5), "1.5", "5").observe(time.perf_counter() - started)

    return body


def _timeline() -> Timeline:
    return Timeline(1, Anchor.take(), now(), Asked())


def main() -> None:
    options = harness.arguments(__doc__, rounds=15, steps=50_000)
    few = max(1, options.steps // 25)
    stack = observed()  # the whole of it is there, as in a service
    found = harness.alternate(
        {
            "bare": timed(bare, options.steps), "floor": timed(floor, options.steps),
            "ours": timed(ours, options.steps),
            "ours, no request": timed(idle, options.steps), "bare frame": timed(bare_frame, options.steps),
            "ours frame": timed(ours_frame, options.steps), "prometheus": timed(prometheus(), few),
            "naive": _naive_timed(few),
        },
        options.rounds,
    )  # fmt: skip
    stack.shutdown()

    def added(name: str, to: str = "bare") -> harness.Series:
        return harness.Series(name, [a - b for a, b in zip(found[name].values, found[to].values, strict=True)])

    least, mine = added("floor"), added("ours")
    contenders = {
        "floor: two clock reads and an append": least,
        "ours: the step's hook": mine,
        "ours, with its share of the frame's other notes": added("ours frame", "bare frame"),
        "ours, outside any request": added("ours, no request"),
        "prometheus_client labels().observe": added("prometheus"),
        "start_as_current_span + Histogram.record": added("naive"),
    }
    rows: list[list[str | float | None]] = [
        [name, each.median, harness.spread(each), harness.ratio(each, least).median, harness.ratio(each, mine).median]
        for name, each in contenders.items()
    ]
    over, below = (
        harness.ratio(mine, least).median,
        harness.ratio(contenders["start_as_current_span + Histogram.record"], mine).median,
    )
    harness.Report(
        "hot_path", "Added to the generation thread per diffusion step, nanoseconds of its CPU time", "ns",
        ["contender", "median", "quartiles", "/ floor", "/ ours"], rows,
        [
            harness.Goal("at most 2x the floor", over <= 2, f"{over:.2f}x"),
            harness.Goal("at least 100x below naive", below >= 100, f"{below:.0f}x"),
        ],
        raw={name: each.values for name, each in contenders.items()},
    ).write(options.out)  # fmt: skip


def _naive_timed(steps: int) -> Callable[[], float]:
    """The naive contender's spans are exported by the batch processor's own thread, which is not on this account."""
    tracer_provider, meter_provider, _, _ = providers()
    contender = Naive(tracer_provider, meter_provider)
    shared = {"voice": "en-Carter_man", "cfg": "1.5", "steps": "5", "clock": "host"}
    scheduler: Any = Scheduler()

    def run() -> float:
        started = time.thread_time_ns()
        for index in range(steps):
            contender.step(scheduler, index % 5, shared)
        spent = time.thread_time_ns() - started
        tracer_provider.force_flush()
        return spent / steps

    return run


if __name__ == "__main__":
    main()
