"""The recorder's thread: what ended is told soon, long streams are drained whatever else ends."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from vibevoice_otel import wiring
from vibevoice_otel.metrics.live import active
from vibevoice_otel.recording import recorder as module
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.ids import RandomIds
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.records import Batch, Labels
from vibevoice_otel.recording.timeline import bound
from vibevoice_otel.settings import Settings


class Heard:
    """A sink that keeps what it hears."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def consume(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.held.wait(60)

    held = threading.Event()
    held.set()


def recorder(sink: Heard, **settings: float) -> Recorder:
    return wiring.recorder(Settings(**settings), TracerProvider(shutdown_on_exit=False), [sink])  # type: ignore[arg-type]


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
        assert one.flush(60.0)
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
    until, others = time.monotonic() + 60, 0
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
    """It hurries the thread before it asks: set after the answer, the flag would stay and nothing be gathered again."""
    hurried: list[bool] = []

    class Watched(queue.SimpleQueue[Any]):
        def put(self, item: Any, *_: Any, **__: Any) -> None:
            if isinstance(item, threading.Event):
                hurried.append(one._hurry.is_set())
            super().put(item)

    one = recorder(Heard())
    one._ended = Watched()
    request(one)
    assert one.flush(60.0)
    assert hurried == [True]
    assert not one._hurry.is_set()
    one.shutdown()


def test_who_ended_while_the_end_was_awaited_was_not_cut_off() -> None:
    """The recorder is busy: a request ends by itself after the service began to stop, and before the recorder comes to
    it.
    """
    sink = Heard()
    sink.held = threading.Event()
    one = recorder(sink)
    request(one)
    late = one.open("work", context=Context())
    until = time.monotonic() + 60
    while not sink.batches and time.monotonic() < until:
        time.sleep(0.001)
    end = threading.Thread(target=one.end_open)
    end.start()
    while not one._hurry.is_set() and time.monotonic() < until:
        time.sleep(0.001)
    late.delivered = 1
    one.release(late, "work")
    sink.held.set()
    end.join(60)
    assert not end.is_alive()
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


@pytest.mark.swallows("starting the thread vibevoice-otel-recorder")
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
    assert one.flush(60.0)
    assert one.alive
    assert sorted(batch.request for batch in sink.batches) == [1, 2]
    assert one.timelines == []
    one.shutdown()


@pytest.mark.swallows("starting the thread vibevoice-otel-recorder")
def test_what_no_thread_could_record_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses a thread to the end, nothing waits for it, and the requests that are lost are told."""
    dropped: list[tuple[str, str, int]] = []
    one = wiring.recorder(Settings(), TracerProvider(shutdown_on_exit=False), [], lambda *drop: dropped.append(drop))
    monkeypatch.setattr(threading.Thread, "start", _no_thread)
    request(one)
    request(one)
    assert not one.flush()
    one.shutdown()
    assert dropped == [("records", "no_thread", 2)]


def test_a_request_that_is_held_again_while_it_ends_is_open_again() -> None:
    """Between the last release and the recorder's look another thread takes the request up: what it notes is in the
    record.
    """
    sink = Heard()
    one = recorder(sink)
    held = one.open("web", context=Context())
    one.release(held, "web")
    assert one.hold(held, "generation")
    time.sleep(0.1)
    assert one.timelines == [held]
    with bound(held) as run:
        run.start = now()
        run.frames.extend((now(), now()))
        run.end = now()
    one.release(held, "generation")
    assert one.flush(60.0)
    (batch,) = sink.batches
    assert batch.blocks
    assert one.timelines == []
    one.shutdown()


def test_a_request_that_is_gone_cannot_be_held() -> None:
    """It says so, and the work that comes too late is counted."""
    dropped: list[tuple[str, str, int]] = []
    one = wiring.recorder(Settings(), TracerProvider(shutdown_on_exit=False), [], lambda *drop: dropped.append(drop))
    gone = one.open("web", context=Context())
    one.release(gone, "web")
    assert one.flush(60.0)
    assert not one.hold(gone, "generation")
    assert dropped == [("requests", "late", 1)]
    one.shutdown()


@pytest.mark.parametrize("callers", range(20))
def test_flush_and_shutdown_beside_each_other_are_both_answered(callers: int) -> None:
    """At once, whichever comes first; so are two shutdowns."""
    del callers
    one = recorder(Heard())
    request(one)
    threads = [threading.Thread(target=one.shutdown, args=(60.0,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    assert one.flush(60.0)
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 60, "one of them waited for an answer that never came"
    assert one.flush(60.0)
    assert not one.alive


@pytest.mark.swallows("assembling a request's records")
def test_an_assembly_that_fails_ends_the_request_as_an_error() -> None:
    """The request is counted and its root span ends, with error.type assembler_error; nothing is kept of it."""
    exporter, dropped, sink = InMemorySpanExporter(), list[tuple[str, str, int]](), Heard()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    one = wiring.recorder(Settings(), provider, [sink], lambda *drop: dropped.append(drop))
    broken = one.open("web", context=Context())
    broken.notes.append(None)  # type: ignore[arg-type]
    one.release(broken, "web")
    assert one.flush(60.0)
    (root,) = exporter.get_finished_spans()
    assert root.status.description == root.attributes["error.type"] == "assembler_error"  # type: ignore[index]
    (batch,) = sink.batches
    assert (batch.final, batch.status, batch.error_type) == (True, "error", "assembler_error")
    assert dropped == [("records", "assembler_error", 1)]
    assert one.emitter._open == {}
    one.shutdown()


def test_requests_that_nothing_ends_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound a request is served and not recorded, and counted."""
    monkeypatch.setattr(module, "MAX_OPEN", 3)
    dropped: list[tuple[str, str, int]] = []
    one = wiring.recorder(Settings(), TracerProvider(shutdown_on_exit=False), [], lambda *drop: dropped.append(drop))
    opened = [one.open("web", context=Context()) for _ in range(5)]
    assert len(one.timelines) == len(one.emitter._open) == 3
    assert dropped == [("requests", "too_many_open", 1)] * 2
    for each in opened:
        one.release(each, "web")
    assert one.flush(60.0)
    one.shutdown()
    one.open("web")
    assert dropped[2:] == [("requests", "stopped", 1)]


def test_what_is_open_may_end_unjudged() -> None:
    """Where the observation ends and not the process, an open request is dropped and counted: it is no error of the
    service's.
    """
    sink, dropped = Heard(), list[tuple[str, str, int]]()
    one = wiring.recorder(
        Settings(), TracerProvider(shutdown_on_exit=False), [sink], lambda *drop: dropped.append(drop)
    )
    one.open("web", context=Context())
    request(one)
    one.shutdown(judge=False)
    assert [batch.request for batch in sink.batches] == [2]
    assert dropped == [("requests", "uninstrumented", 1)]
    assert one.timelines == []


def test_the_voices_that_a_service_lists_are_told_once_with_its_defaults() -> None:
    """Each as the labels of a request that asks for neither cfg nor steps; what is not known is 'other'."""
    one, told = recorder(Heard()), list[Labels]()
    one._on_voices = told.append
    one.learn_voices(["en-Carter_man", "de-Spk0_man"], 1.5, 5)
    one.learn_voices(["de-Spk0_man", "fr-Spk1_woman"], None, None)
    one.shutdown()
    assert sorted(told, key=lambda labels: labels.voice) == [
        Labels("de-Spk0_man", "1.5", "5", "other"),
        Labels("en-Carter_man", "1.5", "5", "other"),
        Labels("fr-Spk1_woman", "other", "other", "other"),
    ]
