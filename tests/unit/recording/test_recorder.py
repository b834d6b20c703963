"""The recorder's thread: what ended is told soon, long streams are drained whatever else ends."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider

from vibevoice_otel.metrics.live import active
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.ids import RandomIds
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
        self.held.wait(10)

    held = threading.Event()
    held.set()


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
    long.runs[0].start = now()
    with bound(long):
        for _ in range(3):
            long.runs[0].frames.append(now())
    until, others = time.monotonic() + 20, 0
    while time.monotonic() < until and not any(batch.request == long.request for batch in sink.batches):
        request(one)
        others += 1
    drained = [batch for batch in sink.batches if batch.request == long.request]
    assert [(batch.final, len(batch.blocks[0])) for batch in drained] == [(False, 2)]
    one.release(long, "work")
    one.shutdown()
    assert len(sink.batches) == others + 2


def test_who_has_ended_is_not_open() -> None:
    """Requests one after the other are one at a time, however long the recorder gathers what ended."""
    one = recorder(Heard())
    for _ in range(3):
        timeline = one.open("work", context=Context())
        assert timeline.streams_active == 1
        assert sum(count for count, _ in active(one)) == 1
        one.release(timeline, "work")
    assert sum(count for count, _ in active(one)) == 0
    one.shutdown()


def test_a_flush_answered_at_once_leaves_no_hurry() -> None:
    """Else nothing would ever be gathered again."""

    class Slow(queue.SimpleQueue[Any]):
        """Whoever puts a question goes on when it has been answered."""

        def put(self, item: Any, *_: Any, **__: Any) -> None:
            super().put(item)
            if isinstance(item, threading.Event):
                item.wait(10)

    one = recorder(Heard())
    one._ended = Slow()
    request(one)
    assert one.flush()
    assert not one._hurry.is_set()
    one.shutdown()


def test_who_ended_while_the_end_was_awaited_was_not_cut_off() -> None:
    """The recorder is busy: a request ends by itself after the service began to stop, and before the recorder comes to it."""
    sink = Heard()
    sink.held = threading.Event()
    one = recorder(sink)
    request(one)
    late = one.open("work", context=Context())
    until = time.monotonic() + 10
    while not sink.batches and time.monotonic() < until:
        time.sleep(0.001)
    end = threading.Thread(target=one.end_open)
    end.start()
    while not one._hurry.is_set() and time.monotonic() < until:
        time.sleep(0.001)
    late.delivered = 1
    one.release(late, "work")
    sink.held.set()
    end.join(10)
    one.shutdown()
    assert [batch.error_type for batch in sink.batches if batch.request == late.request] == [None]


def test_ids_keep_nothing_else_alive() -> None:
    """Whoever keeps a few span ids (the live page does) does not keep the thousands that were drawn with them."""
    ids = RandomIds()
    first, second = ids.take(3), ids.take(3)
    assert first.base is None
    assert len({*first.tolist(), *second.tolist()}) == 6


def _no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_thread_that_could_not_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refused a thread once: the request that met it and all later ones are recorded, each once."""
    sink = Heard()
    one = recorder(sink)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_thread)
        first = one.open("web", context=Context())
        assert not one.alive
    request(one)
    one.release(first, "web")
    assert one.flush()
    assert one.alive
    assert sorted(batch.request for batch in sink.batches) == [1, 2]
    assert one.timelines == []
    one.shutdown()


def test_what_no_thread_could_record_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses a thread to the end, nothing waits for it, and the requests that are lost are told."""
    dropped: list[tuple[str, str, int]] = []
    one = Recorder(Settings(), TracerProvider(shutdown_on_exit=False), [], lambda *drop: dropped.append(drop))
    monkeypatch.setattr(threading.Thread, "start", _no_thread)
    request(one)
    request(one)
    assert not one.flush()
    one.shutdown()
    assert dropped == [("records", "no_thread", 2)]
