"""Growth: CPU and memory with the number of streams, the length of one, and the number of labels; bytes on the wire.

A replayed engine paces each stream at a real model's 37.5 diffusion steps a second, so that a minute of audio takes a
minute. The long streams are replayed as fast as they go, on a clock that is told how late it is.
"""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

from benchmarks import harness
from benchmarks.replay import FRAME_SECONDS, STEPS, Model, close_request, deliver, open_request, speak
from benchmarks.telemetry import Observed, observed
from vibevoice_otel import semconv
from vibevoice_otel.recording.timeline import bound
from vibevoice_otel.settings import Settings

STREAMS = (1, 8, 50)
SECONDS = (10, 60, 600)
KIB = 1024


def paced(stack: Observed, model: Model, seconds: float, barrier: threading.Barrier) -> None:
    """One stream at real time: a frame, then what is left of its 133 ms."""
    timeline = open_request(stack.recorder)
    barrier.wait()
    with bound(timeline):
        model.begin()
        due = time.monotonic()
        for _ in range(int(seconds / FRAME_SECONDS)):
            model.frame(STEPS)
            deliver(timeline, model)
            due += FRAME_SECONDS
            time.sleep(max(0.0, due - time.monotonic()))
    close_request(stack.recorder, timeline)


def streams(count: int, seconds: float) -> list[str | float | None]:
    """CPU of ``count`` streams at once for ``seconds``, and what an open one holds."""
    stack, model = observed(settings=Settings(drain_interval=5.0)), Model.observed()
    speak(stack.recorder, model, 3)
    stack.flush()
    barrier = threading.Barrier(count + 1)
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(paced, stack, model.another(), seconds, barrier) for _ in range(count)]
        barrier.wait()
        began, clock = time.process_time(), time.monotonic()
        for each in running:
            each.result()
        spent, passed = time.process_time() - began, time.monotonic() - clock
    stack.flush()
    idle = _pacing_alone(count, seconds)
    steps = count * int(seconds / FRAME_SECONDS) * STEPS
    dropped = sum(stack.dropped.values())
    stack.shutdown()
    return [f"{count} streams at once", steps, (spent - idle) / steps * 1e6, (spent - idle) / passed * 100, dropped]


def _pacing_alone(count: int, seconds: float) -> float:
    """What the threads and their sleeping cost without any telemetry, for as long."""
    bare = Model()

    def run() -> None:
        model = bare.another()
        due = time.monotonic()
        for _ in range(int(seconds / FRAME_SECONDS)):
            model.frame(STEPS)
            model.chunk()
            due += FRAME_SECONDS
            time.sleep(max(0.0, due - time.monotonic()))

    began = time.process_time()
    with ThreadPoolExecutor(count) as pool:
        for each in [pool.submit(run) for _ in range(count)]:
            each.result()
    return time.process_time() - began


def held(seconds: float, *, drained: bool) -> float:
    """KiB that each further open stream of this length holds at most: what nine at once hold more than one,
    by eight.
    """
    return (_held(9, seconds, drained=drained) - _held(1, seconds, drained=drained)) / 8


def _held(count: int, seconds: float, *, drained: bool) -> float:
    """KiB that ``count`` open streams and all that the process keeps on their account hold at most."""
    stack, bare = observed(settings=Settings(drain_interval=600.0)), Model.observed()
    speak(stack.recorder, bare, 3)
    stack.flush()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    open_streams = [(open_request(stack.recorder), bare.another()) for _ in range(count)]
    for timeline, model in open_streams:
        with bound(timeline):
            model.begin()
    peak = 0
    for number in range(int(seconds / FRAME_SECONDS)):
        for timeline, model in open_streams:
            with bound(timeline):
                model.frame(STEPS)
            deliver(timeline, model)
        if number % 38 == 37:  # every 5 seconds of audio
            peak = max(peak, tracemalloc.get_traced_memory()[0] - before)
            if drained:
                stack.recorder._drain_long_streams()
                stack.tracer_provider.force_flush()
                gc.collect()
        if number % 450 == 449:  # and a reader every minute
            stack.reader.get_metrics_data()
    peak = max(peak, tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    for timeline, _ in open_streams:
        close_request(stack.recorder, timeline)
    stack.shutdown()
    return peak / KIB


def _drained(stack: Observed, model: Model, seconds: float) -> None:
    """A whole stream of this length, drained every 5 seconds of its audio while it runs."""
    timeline = open_request(stack.recorder)
    with bound(timeline):
        model.begin()
        for number in range(int(seconds / FRAME_SECONDS)):
            model.frame(STEPS)
            deliver(timeline, model)
            if number % 38 == 37:
                stack.recorder._drain_long_streams()
    close_request(stack.recorder, timeline)
    stack.flush()


def length(seconds: float) -> list[str | float | None]:
    """CPU of one stream of this length, drained every 5 seconds of audio while it runs, and its bytes."""
    stack, model = observed(settings=Settings(drain_interval=600.0, max_trace_spans=10_000_000)), Model.observed()
    speak(stack.recorder, model, 3)
    stack.flush()
    sent = stack.sink.received
    began = time.process_time()
    _drained(stack, model, seconds)
    spent = time.process_time() - began
    sent = stack.sink.received - sent
    stack.shutdown()
    steps = int(seconds / FRAME_SECONDS) * STEPS
    one = _held(1, seconds, drained=True)
    kept = [held(seconds, drained=True), held(seconds, drained=False), one]
    return [f"{seconds:g} s of audio", steps, spent / steps * 1e6, *kept, sent / steps]


def labels(voices: int, scales: int, counts: int) -> list[str | float | None]:
    """Every voice with every cfg and number of steps: what a service that offers all of them keeps and sends."""
    stack, model = observed(), Model.observed()
    names = [f"voice-{n}" for n in range(voices)]
    stack.recorder.bounds.learn_voices(names)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for voice in names:
        for scale in range(scales):
            for count in range(counts):
                timeline = open_request(stack.recorder, 5 + count, voice, 1.0 + scale / 10)
                model.cfg = 1.0 + scale / 10
                with bound(timeline):
                    model.begin()
                    model.frame(5 + count)
                    deliver(timeline, model)
                close_request(stack.recorder, timeline)
    stack.flush()
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    data = stack.reader.get_metrics_data()
    assert data is not None
    encoded = len(encode_metrics(data).SerializeToString())
    points = {metric.name: len(metric.data.data_points) for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    stack.shutdown()
    return [
        f"{voices} voices x {scales} cfg x {counts} steps",
        sum(points.values()),
        points[semconv.INFERENCE.name],
        kept / KIB / KIB,
        encoded / 1e6,
    ]


def main() -> None:
    options = harness.arguments(__doc__.splitlines()[0], seconds=20)
    quick = options.quick
    at_once = [streams(count, options.seconds) for count in (STREAMS[:2] if quick else STREAMS)]
    lengths = [length(seconds) for seconds in (SECONDS[:1] if quick else SECONDS)]
    product = [labels(*size) for size in (((2, 1, 1),) if quick else ((1, 1, 1), (25, 1, 1), (25, 4, 3)))]
    harness.Report(
        "growth_streams", "Streams at once, each 37.5 steps a second in real time", "",
        ["streams", "steps", "CPU us / step", "CPU % of a core", "spans dropped"], at_once,
        [harness.Goal("CPU grows linearly or "
                      "less", _linear(at_once), f"{_number(at_once[-1][2]):.1f} us a step with {at_once[-1][0]}")],
    ).write(options.out)  # fmt: skip
    worst = max(_number(row[3]) for row in lengths)
    harness.Report(
        "growth_length",
        "One stream, as fast as it goes; drained every 5 s of its audio, or not at all",
        "",
        [
            "stream",
            "steps",
            "CPU us / step",
            "KiB held, drained",
            "not drained",
            "by a process with one, drained",
            "bytes / step",
        ],
        lengths,
        [
            harness.Goal(
                "CPU grows linearly or less",
                _linear(lengths),
                f"{_number(lengths[-1][2]):.1f} us a step at {lengths[-1][0]}",
            ),
            harness.Goal("under 64 KiB held by an open stream", worst < 64, f"{worst:.0f} KiB at most"),
        ],
    ).write(options.out)
    harness.Report(
        "growth_labels", "Every label with every other", "",
        ["labels", "series", "of inference.duration", "MiB kept", "MB an export, not compressed"], product,
    ).write(options.out)  # fmt: skip


def _number(value: str | float | None) -> float:
    return float(value or 0.0)


def _linear(rows: list[list[str | float | None]]) -> bool:
    """Whether a step costs no more in the largest than in the smallest, with a fifth for noise."""
    return _number(rows[-1][2]) <= 1.2 * _number(rows[0][2])


if __name__ == "__main__":
    main()
