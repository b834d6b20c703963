"""The recorder's thread: what ended is told soon, long streams are drained whatever else ends."""

from __future__ import annotations

import threading
import time

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider

from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.recording.timeline import bound
from vibevoice_otel.settings import Settings


class Heard:
    """A sink that keeps what it hears."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def consume(self, batch: Batch) -> None:
        self.batches.append(batch)


def recorder(sink: Heard, **settings: float) -> Recorder:
    return Recorder(Settings(**settings), TracerProvider(shutdown_on_exit=False), [sink])  # type: ignore[arg-type]


def request(one: Recorder) -> None:
    one.release(one.open("work", context=Context()), "work")


def test_a_flush_hears_of_all_that_ended_before_it() -> None:
    """In the order in which it ended, from any number of threads, each once."""
    sink = Heard()
    one = recorder(sink)
    for _ in range(20):
        threads = [threading.Thread(target=request, args=(one,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.flush()
    assert sorted(batch.request for batch in sink.batches) == list(range(1, 101))
    one.shutdown()


def test_a_long_stream_is_drained_while_others_keep_ending() -> None:
    """The queue of ended requests is never empty; the open one's frames are told all the same."""
    sink = Heard()
    one = recorder(sink, drain_interval=0.05)
    long = one.open("work", context=Context())
    long.generate_start = now()
    with bound(long):
        for _ in range(3):
            long.frames.append(now())
    until, others = time.monotonic() + 20, 0
    while time.monotonic() < until and not any(batch.request == long.request for batch in sink.batches):
        request(one)
        others += 1
    drained = [batch for batch in sink.batches if batch.request == long.request]
    assert [(batch.final, len(batch.blocks[0])) for batch in drained] == [(False, 2)]
    one.release(long, "work")
    one.shutdown()
    assert len(sink.batches) == others + 2
