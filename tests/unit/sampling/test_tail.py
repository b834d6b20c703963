"""Sampling by outcome in the process: whole traces, kept for a reason, within a bound."""

from __future__ import annotations

import asyncio
import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Status, StatusCode

from tests.support.pipeline import Pipeline, caller, pipeline
from vibevoice_otel import failures
from vibevoice_otel.sampling import sampler
from vibevoice_otel.sampling import tail as module
from vibevoice_otel.sampling.sampler import TailSampler
from vibevoice_otel.sampling.tail import TailProcessor
from vibevoice_otel.sdk import chain
from vibevoice_otel.settings import Settings

ROOT = "vibevoice.synthesize"
PATIENT = Settings(slo_first_audio=3600.0)  # a busy machine is not slow here
LONG = b"text=a&long=1"  # and lets no listener run dry between two chunks


def assert_whole(service: Pipeline) -> None:
    """Every exported trace has its SERVER span and no span whose parent is missing (the caller's apart)."""
    for spans in service.traces().values():
        ids = {span.get_span_context().span_id for span in spans}  # type: ignore[union-attr]
        assert (
            sum(span.kind is trace.SpanKind.SERVER for span in spans) == sum(span.name == ROOT for span in spans) >= 1
        )
        assert all(span.parent is None or span.parent.is_remote or span.parent.span_id in ids for span in spans)


def test_failures_are_kept_whole_and_the_rest_is_dropped_whole() -> None:
    """Of 40 requests with share 0 the 10 that fail are exported with their SERVER spans; nothing of the others is."""
    with pipeline(TailSampler(0.0), PATIENT) as service:
        service.run(*([LONG] * 3 + [b"text=a&fail=1"]) * 10)
        assert len(service.traces()) == 10
        assert all(any(s.status.status_code is StatusCode.ERROR for s in spans) for spans in service.traces().values())
        assert_whole(service)


def test_a_slow_first_audio_is_kept_with_its_exemplar() -> None:
    """Beyond the objective the trace is exported, and the latency's exemplar names it."""
    with pipeline(TailSampler(0.0), Settings(slo_first_audio=3.0)) as service:
        service.run(LONG)
        service.run(LONG, LONG + b"&late=3.1", LONG)
        (spans,) = service.traces().values()
        assert_whole(service)
        exemplars = [
            e for point in service.points("vibevoice.first_audio.latency") for e in point.exemplars if e.trace_id
        ]
        assert [e.trace_id for e in exemplars] == [spans[0].get_span_context().trace_id]  # type: ignore[union-attr]
        assert exemplars[0].span_id in {
            s.get_span_context().span_id for s in spans if s.name == "vibevoice.first_chunk"
        }  # type: ignore[union-attr]


def test_a_listener_who_ran_dry_is_kept() -> None:
    """66 ms of audio and a second chunk 300 ms later: of three good requests that one is exported, whole,
    and says so.
    """
    with pipeline(TailSampler(0.0), PATIENT) as service:
        service.run(LONG, b"text=a&gap=0.3", LONG)
        (spans,) = service.traces().values()
        assert_whole(service)
        (root,) = (span for span in spans if span.name == ROOT)
        assert root.status.status_code is not StatusCode.ERROR
        assert (root.attributes or {})["vibevoice.underruns"] == 1


def test_a_full_buffer_degrades_with_a_count() -> None:
    """60 failing requests at once, three early spans of the service's own in each, in a buffer of 100: every one is
    counted; a trace is there whole or not at all; and vibevoice.telemetry.dropped says exactly how many spans were lost
    for want of room.
    """
    app, spoken, everyone = FastAPI(), list[int](), asyncio.Event()

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        for _ in range(3):
            service.provider.get_tracer("service").start_span("own").end()
        spoken.append(1)
        if len(spoken) == 60:
            everyone.set()
        await everyone.wait()
        raise RuntimeError

    async def scene() -> Any:
        return await asyncio.gather(*(service.ask() for _ in range(60)))

    with pipeline(TailSampler(0.0), Settings(slo_first_audio=3600.0, tail_buffer=100), app) as service:
        asyncio.run(scene())
        service.flush()
        assert service.counted("vibevoice.streaming.requests", "status") == {"error": 60}
        assert_whole(service)
        kept, lost = len(service.traces()), service.counted("vibevoice.telemetry.dropped", "reason")["tail_buffer_full"]
        assert all([span.name for span in spans].count("own") == 3 for spans in service.traces().values())
        print(f"{kept} of 60 traces are kept, whole; {lost} spans were counted as lost")
        assert 0 < kept < 60
        assert lost == (60 - kept) * len(next(iter(service.traces().values())))


def test_the_share_is_kept_whatever_the_outcome() -> None:
    """With share 0.5 about half of the good ones are there, whole, sampled at once (so that other services sample them
    too).
    """
    with pipeline(TailSampler(0.5), PATIENT) as service:
        service.run(*[b"text=a"] * 100)
        assert 25 <= len(service.traces()) <= 75
        assert_whole(service)


@pytest.mark.parametrize(("override", "kept"), [(False, 0), (True, 1)])
def test_a_callers_refusal_is_overridden_by_opt_in_alone(override: bool, kept: int) -> None:
    """A failed request of a caller who does not sample is kept only with VIBEVOICE_OTEL_TAIL_OVERRIDE_CALLER; it is
    counted always.
    """
    with pipeline(TailSampler(0.0, override=override), PATIENT) as service:
        service.run(LONG, headers=caller(sampled=False))
        service.run(b"text=a&fail=1", headers=caller(sampled=False, trace_id="1" * 32))
        assert [span.name for span in service.spans()].count(ROOT) == kept
        assert service.counted("vibevoice.streaming.requests", "status") == {"success": 1, "error": 1}


def test_a_callers_wish_is_kept() -> None:
    """A caller who samples gets his trace, whatever the share."""
    with pipeline(TailSampler(0.0)) as service:
        service.run(b"text=a", headers=caller(sampled=True))
        assert_whole(service)
        assert len(service.traces()) == 1


class Held:
    """A provider with the tail processor alone."""

    def __init__(self, limit: int) -> None:
        self.exporter, self.drops = InMemorySpanExporter(), list[tuple[str, str, int]]()
        self.provider = TracerProvider(sampler=TailSampler(0.0))
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tail = TailProcessor(
            lambda: chain.exporting(self.provider),
            slow=0.45,
            limit=limit,
            on_drop=lambda *drop: self.drops.append(drop),
            room=chain.room,
        )
        self.provider.add_span_processor(self.tail)
        self.tracer = self.provider.get_tracer("test")

    def names(self) -> list[str]:
        assert self.provider.force_flush()
        return sorted(span.name for span in self.exporter.get_finished_spans())


def test_a_full_buffer_drops_the_oldest_trace_whole_and_counts_it() -> None:
    """Beyond its limit the buffer loses one undecided trace, all of it, later spans and a later failure included, and
    says how much.
    """
    held = Held(limit=10)
    old, new = held.tracer.start_span("old"), held.tracer.start_span("new")
    for parent, count in ((old, 8), (new, 3)):
        for number in range(count):
            held.tracer.start_span(f"{parent.name} {number}", context=trace.set_span_in_context(parent)).end()  # type: ignore[attr-defined]
    assert held.drops == [("spans", "tail_buffer_full", 8)]
    for span in (old, new):
        span.set_status(Status(StatusCode.ERROR))
        span.end()
    assert held.names() == ["new", "new 0", "new 1", "new 2"]
    assert held.drops[1:] == [("spans", "tail_buffer_full", 1)], "its last span too"


def test_a_span_after_the_end_follows_its_trace() -> None:
    """A child that begins when its trace is over is exported with a kept trace and dropped with a dropped one, even if
    it fails.
    """
    held = Held(limit=100)
    for name, fails in (("good", False), ("bad", True)):
        root = held.tracer.start_span(name)
        if fails:
            root.set_status(Status(StatusCode.ERROR))
        root.end()
        late = held.tracer.start_span(f"late {name}", context=trace.set_span_in_context(root))
        late.set_status(Status(StatusCode.ERROR))
        late.end()
    assert held.names() == ["bad", "late bad"]


@pytest.mark.swallows("the export of kept traces")
def test_an_exporter_that_fails_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What could not be handed over is counted as lost spans each time; the log says so once; later traces go out
    again.
    """
    monkeypatch.setattr(failures, "_logged", set())
    held = Held(limit=100)

    def refuse() -> list[Any]:
        raise RuntimeError

    targets = held.tail._targets
    for fails in (True, True, False):
        held.tail._targets = refuse if fails else targets
        span = held.tracer.start_span("bad")
        span.set_status(Status(StatusCode.ERROR))
        span.end()
        until = time.monotonic() + 60
        while (held.tail._leaving or held.tail._handing) and time.monotonic() < until:
            time.sleep(0.01)
    assert held.names() == ["bad"]
    assert held.drops == [("spans", "tail_error", 1)] * 2
    assert len([record for record in caplog.records if record.name == failures.__name__]) == 1


def test_nothing_is_held_when_all_is_over() -> None:
    """1,000 requests leave the buffer empty."""
    held = Held(limit=100)
    for _ in range(1000):
        with held.tracer.start_as_current_span("request"), held.tracer.start_as_current_span("child"):
            pass
    assert held.names() == []
    assert (held.tail._held, len(held.tail._traces)) == (0, 0)
    assert not held.drops


def test_what_is_kept_takes_no_room() -> None:
    """20 traces that fail: all are exported, none of their spans is counted as held."""
    held = Held(limit=100)
    for _ in range(20):
        with held.tracer.start_as_current_span("request"), held.tracer.start_as_current_span("child") as child:
            child.set_status(Status(StatusCode.ERROR))
    assert held.names() == ["child"] * 20 + ["request"] * 20
    assert (held.tail._held, held.drops) == (0, [])


def test_a_span_has_its_first_attributes_where_it_is_recorded() -> None:
    """Kept from the start or held back; not where a caller decided against the trace, whose state goes on."""
    given, state = {"a": 1}, trace.TraceState([("k", "v")])
    remote = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(0), trace_state=state)
    refused = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    for share in (0.0, 1.0):
        assert dict(TailSampler(share).should_sample(None, 1, "x", attributes=given).attributes) == given
    result = TailSampler(1.0).should_sample(refused, 1, "x", attributes=given)
    assert (dict(result.attributes), result.trace_state) == ({}, state)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(share: float) -> None:
    """The error names the value and what is allowed."""
    with pytest.raises(ValueError, match=f"share {share!r} is not from 0 to 1"):
        TailSampler(share)


@pytest.mark.parametrize("argument", ["-0.1", "1.5", "nan", "half", "inf"])
def test_a_wrong_share_is_told_and_keeps_everything(argument: str, caplog: pytest.LogCaptureFixture) -> None:
    """The message names the setting, the value and what is allowed; nothing is lost by a slip."""
    with caplog.at_level(logging.ERROR):
        chosen = sampler.from_environment(argument)
    assert "OTEL_TRACES_SAMPLER_ARG" in caplog.text
    assert repr(argument) in caplog.text
    assert "from 0 to 1" in caplog.text
    assert chosen.get_description() == "VibeVoiceTail{share=1,override=False}"


@pytest.mark.parametrize(("argument", "share"), [(None, "0"), ("", "0"), ("0", "0"), ("0.25", "0.25"), ("1", "1")])
def test_the_share_is_read(argument: str | None, share: str) -> None:
    """The share, none for 0."""
    assert f"share={share}," in sampler.from_environment(argument).get_description()


def test_concurrent_requests_do_not_mix() -> None:
    """Interleaved requests, every other failing, are kept and dropped each on its own."""

    async def scene(service: Pipeline) -> Any:
        return await asyncio.gather(
            *(service.ask(b"text=a&long=1&late=0.02" + (b"&fail=1" if n % 2 else b"")) for n in range(40))
        )

    with pipeline(TailSampler(0.0), PATIENT) as service:
        asyncio.run(scene(service))
        service.flush()
        assert len(service.traces()) == 20
        assert_whole(service)


def test_traces_whose_spans_never_end_are_bounded() -> None:
    """A program that starts spans and forgets them costs the tail no more than its limit, and what was let go is
    counted.
    """
    dropped: list[tuple[str, str, int]] = []
    provider = TracerProvider(sampler=TailSampler(0), shutdown_on_exit=False)
    tail = TailProcessor(list, slow=1, limit=100, on_drop=lambda *drop: dropped.append(drop))
    provider.add_span_processor(tail)
    tracer = provider.get_tracer("host")
    spans = [tracer.start_span("forgotten") for _ in range(5000)]
    assert len(tail._traces) == 100
    assert dropped == [("spans", "tail_buffer_full", 1)] * 4900
    for span in spans:
        span.end()
    assert tail._traces == {}


def test_the_override_is_read_with_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment too, whatever says the share."""
    monkeypatch.setenv("VIBEVOICE_OTEL_TAIL_OVERRIDE_CALLER", "true")
    monkeypatch.setenv("VIBEVOICE_OTEL_TAIL_SHARE", "0.5")
    assert sampler.from_environment(None).get_description() == "VibeVoiceTail{share=0.5,override=True}"
    assert sampler.from_environment("0.25").get_description() == "VibeVoiceTail{share=0.25,override=True}"


class Target(SpanProcessor):
    """Takes ``room`` spans, and again as many at each look."""

    def __init__(self, room: int | None) -> None:
        self.room, self.looks, self.taken = room, 0, list[str]()

    def on_end(self, span: ReadableSpan) -> None:
        self.taken.append(span.name)

    def look(self, _target: SpanProcessor) -> int | None:
        self.looks += 1
        return None if self.room is None else self.room * self.looks


@pytest.mark.parametrize(
    ("room", "stopped", "looks"),
    [(None, False, 1), (2, False, 1), (1, False, 2), (0, False, 1000), (0, True, 1)],
)
def test_spans_wait_for_room_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, room: int | None, stopped: bool, looks: int
) -> None:
    """Handed over at once where there is room for all, none can be told, or the end has come; a target that stays full
    has them in the end, and counts for itself.
    """
    pauses: list[float] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    target = Target(room)
    tail = TailProcessor(lambda: [target], slow=1, limit=10, on_drop=lambda *_: None, room=target.look)
    if stopped:
        tail.shutdown()
    provider = TracerProvider(shutdown_on_exit=False)
    tail._hand([provider.get_tracer("host").start_span(name) for name in ("one", "two")])  # type: ignore[misc]
    assert (target.taken, target.looks) == (["one", "two"], looks)
    assert pauses == [module.PACE_SECONDS] * (looks if looks == 1000 else looks - 1)


def test_what_is_stopped_hands_over_without_waiting() -> None:
    """What was kept before the end goes out by the flush, on its own thread, in its order; beyond the limit the oldest
    is lost and counted.
    """
    held = Held(limit=3)
    held.tail.shutdown()
    with held.tail._changed:
        held.tail._leave([held.provider.get_tracer("host").start_span(f"span {n}") for n in range(5)])  # type: ignore[misc]
    assert held.tail._thread is None
    assert held.drops == [("spans", "queue_full", 2)]
    assert held.tail.force_flush()
    assert [span.name for span in held.exporter.get_finished_spans()] == ["span 2", "span 3", "span 4"]


def test_a_shutdown_ends_the_thread() -> None:
    """One that waits for the next kept trace too."""
    held = Held(limit=10)
    span = held.tracer.start_span("bad")
    span.set_status(Status(StatusCode.ERROR))
    span.end()
    thread = held.tail._thread
    assert thread is not None
    assert held.names() == ["bad"], "it has nothing left to do"
    held.tail.shutdown()
    thread.join(60)
    assert not thread.is_alive()


def test_a_span_that_its_trace_s_outcome_dropped_is_no_loss() -> None:
    """Only want of room is counted; a good trace's late span goes as the trace went."""
    held = Held(limit=10)
    root = held.tracer.start_span("good")
    root.end()
    held.tracer.start_span("late", context=trace.set_span_in_context(root)).end()
    assert held.names() == []
    assert held.drops == []
