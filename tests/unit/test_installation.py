"""What is put into a process is taken out again, and nothing of it is left."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette

from tests.support.metrics import dropped
from tests.support.pipeline import Pipeline, pipeline, speaking_app
from vibevoice_otel import semconv, wiring
from vibevoice_otel.deferred import DeferredRecorder
from vibevoice_otel.installation import Installation
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.sampling.sampler import TailSampler
from vibevoice_otel.sampling.tail import TailProcessor
from vibevoice_otel.settings import Settings
from vibevoice_otel.web.install import _chain
from vibevoice_otel.web.middleware import RequestMiddleware


def layers(app: FastAPI) -> list[str]:
    found: list[str] = []
    layer: Any = app.middleware_stack
    while layer is not None:
        found.append(type(layer).__name__)
        layer = getattr(layer, "app", None)
    return found


_before: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _threads_of_other_tests() -> None:
    """What other tests of this process have left running is not this test's."""
    _before.clear()
    _before.update(threading.enumerate())


def threads() -> set[str]:
    """Threads of ours that stay; one that was told to end may take a moment to."""
    until = time.monotonic() + 60
    while left := {
        each.name for each in threading.enumerate() if each.name.startswith("vibevoice") and each not in _before
    }:
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    return left


def kept(*references: weakref.ref[Any]) -> list[Any]:
    """What is still there. A thread that was told to end holds what it served for as long as it takes to."""
    until = time.monotonic() + 60
    while True:
        gc.collect()
        found = [each for each in (reference() for reference in references) if each is not None]
        if not found or time.monotonic() > until:
            return found
        del found
        time.sleep(0.01)


def test_an_application_that_was_built_before_is_observed_by_the_next() -> None:
    """Its stack is as it was in between, and the requests of that time are nobody's; then the new providers get
    everything.
    """
    app = speaking_app()
    with pipeline(app=app) as first:
        first.run(b"text=one")
        assert layers(app).count("RequestMiddleware") == 1
        recorder = first.instrumentor.recorder
        assert recorder is not None
    asyncio.run(first.ask(b"text=between"))
    assert "RequestMiddleware" not in layers(app)
    assert recorder.timelines == []
    with pipeline(app=app) as second:
        second.run(b"text=two", b"text=three")
        assert second.counted(semconv.REQUESTS.name, "status") == {"success": 2}
        assert sum(span.name == semconv.SYNTHESIZE.name for span in second.spans()) == 2
        assert layers(app).count("RequestMiddleware") == 1
    assert "RequestMiddleware" not in layers(app)
    assert not threads()


@pytest.mark.parametrize("observed", [True, False])
def test_there_is_one_server_span(observed: bool) -> None:
    """Contrib finds its own layer by walking ``.app``: with ours in between too."""
    app = speaking_app()
    with pipeline(app=app) as one:
        if not observed:
            one.instrumentor.uninstrument()
        for _ in range(2):
            FastAPIInstrumentor.instrument_app(app)  # the launcher does it, then the program
            asyncio.run(one.ask(b"text=one"))
        assert sum(span.kind.name == "SERVER" for span in one.spans()) == 2


class Pausing:
    """A middleware of the host's that holds one request until it is told to go on."""

    def __init__(self, app: Any) -> None:
        self.app = app

    paused, go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if b"pause" in scope.get("query_string", b""):
            type(self).paused.set()
            await type(self).go_on.wait()
        await self.app(scope, receive, send)


def test_uninstrument_while_streams_are_in_flight() -> None:
    """20 streams and one request that stands in a middleware between our layers: each client gets its bytes and the
    endpoint the true text; what was open is dropped and counted, in no objective; no span tells the text.
    """
    Pausing.paused, Pausing.go_on = asyncio.Event(), asyncio.Event()
    app, texts, speaking = FastAPI(), list[str](), asyncio.Semaphore(0)

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        texts.append(socket.query_params["text"])
        await socket.accept()
        for _ in range(2):
            await socket.send_bytes(b"\1\2" * 1600)
            speaking.release()
            await Pausing.go_on.wait()
        await socket.close()

    app.add_middleware(Pausing)
    with pipeline(app=app) as one:

        async def scene() -> list[Any]:
            streams = [asyncio.ensure_future(one.ask(b"text=heliotrope")) for _ in range(20)]
            paused = asyncio.ensure_future(one.ask(b"text=heliotrope&pause=1"))
            await Pausing.paused.wait()
            for _ in streams:
                await speaking.acquire()
            recorder = one.instrumentor.recorder
            assert recorder is not None
            assert len(recorder.timelines) >= 20
            one.instrumentor.uninstrument()
            Pausing.go_on.set()
            return await asyncio.gather(paused, *streams)

        answers = asyncio.run(scene())
        assert [answer.error for answer in answers] == [None] * 21
        assert {answer.audio for answer in answers} == {b"\1\2" * 3200}
        assert texts == ["heliotrope"] * 21
        assert one.counted(semconv.REQUESTS.name, "status") == {}
        assert one.counted(semconv.FIRST_AUDIO_SLI.name, "result") == {}
        assert one.counted(semconv.DROPPED.name, "reason")["uninstrumented"] >= 20
        assert not any("heliotrope" in span.to_json() for span in one.spans())
        assert not any(span.name == semconv.SYNTHESIZE.name for span in one.spans())
        assert "RequestMiddleware" not in layers(app)


class Elsewhere:
    """A layer of the host's that keeps what it serves under a name of its own."""

    def __init__(self, inner: Any) -> None:
        self.served = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.served(scope, receive, send)


def closed_over(inner: Any) -> Any:
    """The same in a closure."""

    async def layer(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    return layer


@pytest.mark.parametrize("around", [Elsewhere, closed_over])
def test_a_layer_that_cannot_be_reached_stays_and_does_nothing(around: Callable[[Any], Any]) -> None:
    """The program puts a layer of its own around the stack that holds ours, and keeps it where nobody can follow: after
    uninstrument our one layer is left in there. It passes everything on, holds nothing, and cycles add no other.
    """
    app = speaking_app()
    with pipeline(app=app) as one:
        one.run(b"text=one")
        (ours,) = [each for each in _chain(app.middleware_stack) if isinstance(each, RequestMiddleware)]
        app.middleware_stack = around(app.middleware_stack)
        one.run(b"text=two")
        assert one.counted(semconv.REQUESTS.name, "status") == {"success": 2}
        assert one.counted(semconv.DROPPED.name, "reason") == {"unknown_middleware_stack": 1}
        recorder, spans = weakref.ref(one.instrumentor.recorder), len(one.spans())  # type: ignore[arg-type]
        built = len([each for each in gc.get_objects() if type(each) is RequestMiddleware])
        one.instrumentor.uninstrument()
        for _ in range(3):
            answers = [asyncio.run(one.ask(query)) for query in (b"text=heliotrope", b"text=heliotrope&fail=1")]
            assert answers[0].audio == b"\1\2" * 3200
            assert [type(each.error) for each in answers] == [type(None), RuntimeError]
            assert ours.recorder.gone
            one.instrumentor.instrument(tracer_provider=one.provider, settings=Settings(), skip_dep_check=True)
            one.instrumentor.uninstrument()
        assert kept(recorder) == []
        assert len([each for each in gc.get_objects() if type(each) is RequestMiddleware]) <= built
        one._collected = None
        assert one.counted(semconv.REQUESTS.name, "status") == {"success": 2}
        after = one.spans()[spans:]
        assert {span.name for span in after if span.kind.name == "SERVER"} != set()
        assert not any(span.name.startswith("vibevoice.") for span in after)


def test_a_layer_of_an_earlier_time_keeps_no_routes() -> None:
    """The program puts back a stack that held our layer when it could not be reached: the next ``instrument()`` looks
    at the routes of its own settings.
    """
    app = speaking_app()
    with pipeline(app=app, settings=Settings(routes=("/elsewhere",))) as one:
        one.run(b"text=one")
        assert one.counted(semconv.REQUESTS.name, "status") == {}
        stack, app.middleware_stack = app.middleware_stack, None
    app.middleware_stack = stack
    assert layers(app).count("RequestMiddleware") == 1
    with pipeline(app=app) as two:
        two.run(b"text=two")
        assert layers(app).count("RequestMiddleware") == 1
        assert two.counted(semconv.REQUESTS.name, "status") == {"success": 1}


def test_nothing_of_ours_is_kept_alive() -> None:
    """After each of ten cycles, with a request in each, the recorder and both providers are free."""
    app, references = speaking_app(), list[weakref.ref[Any]]()
    for _ in range(10):
        with pipeline(app=app) as one:
            one.run(b"text=hello")
            references += map(
                weakref.ref, (one.instrumentor.recorder, one.provider, one.reader, one.instrumentor._installed)
            )  # type: ignore[arg-type]
        del one
        assert kept(*references) == []
    kinds = (Recorder, DeferredRecorder, Installation)
    before = sum(type(each) in kinds for each in gc.get_objects())  # other tests may keep some
    with pipeline(app=app) as one:
        one.run(b"text=hello")
        reference = weakref.ref(one.instrumentor.recorder)  # type: ignore[arg-type]
    del one
    assert kept(reference) == []
    assert sum(type(each) in kinds for each in gc.get_objects()) <= before


class Failing(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.FAILURE


def test_the_operators_exporter_is_as_it_was_and_observed_anew() -> None:
    """Each cycle counts the spans that are lost in it; in between exporter and processor have no method of ours."""
    exporter = Failing()
    processor = BatchSpanProcessor(exporter, schedule_delay_millis=60_000)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    chain = provider._active_span_processor
    before = dict(vars(exporter)), dict(vars(processor._batch_processor._metrics)), chain._span_processors
    for _ in range(2):
        reader = InMemoryMetricReader()
        meters = MeterProvider([reader], shutdown_on_exit=False)
        instrumentor = VibeVoiceInstrumentor()
        instrumentor.instrument(tracer_provider=provider, meter_provider=meters, skip_dep_check=True)
        recorder = instrumentor.recorder
        assert recorder is not None
        provider.get_tracer("host").start_span("lost").end()
        provider.force_flush()
        assert dropped(reader) == 1
        instrumentor.uninstrument()
        now = dict(vars(exporter)), dict(vars(processor._batch_processor._metrics)), chain._span_processors
        assert now == before


def test_two_cycles_on_one_meter_provider_show_true_gauges() -> None:
    """The SDK keeps the first callback of an instrument for ever; it asks the recorder of the time."""
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    for cycle in range(3):
        instrumentor = VibeVoiceInstrumentor()
        instrumentor.instrument(
            tracer_provider=TracerProvider(shutdown_on_exit=False), meter_provider=meters, skip_dep_check=True
        )
        recorder = instrumentor.recorder
        assert recorder is not None
        opened = [recorder.open("web") for _ in range(cycle)]
        one = Pipeline(FastAPI(), InMemorySpanExporter(), reader, instrumentor, TracerProvider())
        assert sum(point.value for point in one.points(semconv.ACTIVE.name)) == cycle
        for each in opened:
            recorder.release(each, "web")
        instrumentor.uninstrument()
        one._collected = None
        assert not one.points(semconv.ACTIVE.name)


def test_a_drop_that_is_told_while_the_recorder_is_built_waits_for_it() -> None:
    """And does not hang the thread that builds."""
    told: list[tuple[str, str, int]] = []

    def build() -> Recorder:
        deferred.on_drop("hooks", "missing", 1)
        return wiring.recorder(
            Settings(), TracerProvider(shutdown_on_exit=False), on_drop=lambda *drop: told.append(drop)
        )

    deferred = DeferredRecorder(Settings(), build)
    thread = threading.Thread(target=deferred.ready, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert told == [("hooks", "missing", 1)]


@contextmanager
def bare(app: FastAPI) -> Iterator[Pipeline]:
    """Contrib's instrumentation and ours, where ours records nothing."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    instrumentor = VibeVoiceInstrumentor()
    instrumentor.instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        yield Pipeline(app, exporter, InMemoryMetricReader(), instrumentor, provider)
    finally:
        instrumentor.uninstrument()
        FastAPIInstrumentor.uninstrument_app(app)


def _speaks_unseen(one: Pipeline) -> None:
    """The listeners are served, and no span tells the text, of a request that fails either."""
    answers = [asyncio.run(one.ask(query)) for query in (b"text=heliotrope", b"text=heliotrope&fail=1")]
    assert answers[0].audio == b"\1\2" * 3200
    assert any(span.kind.name == "SERVER" for span in one.spans())
    assert not any("heliotrope" in span.to_json() for span in one.spans())


@pytest.mark.swallows("VibeVoice telemetry could not start")
def test_a_recorder_that_cannot_be_built_is_tried_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is hidden all the same, and one error says why there is no telemetry."""
    tried: list[int] = []

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        tried.append(1)
        raise LookupError("no such thing")

    monkeypatch.setattr(wiring, "build", broken)
    with caplog.at_level(logging.ERROR), bare(speaking_app()) as one:
        for _ in range(2):
            assert one.instrumentor.recorder is None
            _speaks_unseen(one)
    assert tried == [1]
    assert sum("could not start" in record.getMessage() for record in caplog.records) == 1


def test_with_a_wrong_setting_the_text_is_hidden_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Telemetry of ours is off; contrib's goes on, and its spans are as safe as before."""
    monkeypatch.setenv("VIBEVOICE_OTEL_MAX_STEPS", "-4")
    with bare(speaking_app()) as one:
        assert one.instrumentor.recorder is None
        _speaks_unseen(one)


@pytest.fixture
def wrap() -> Iterator[Callable[[], None]]:
    """A program that wraps functions which are ours at that time: a coroutine's, and an ordinary one's. It never takes
    that back.
    """
    undo: list[tuple[Any, str, Any]] = []

    def around(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def outer(*args: Any, **kwargs: Any) -> Any:
            return inner(*args, **kwargs)

        undo.append((owner, name, inner.__wrapped__))
        setattr(owner, name, outer)

    yield lambda: [around(*each) for each in ((Starlette, "__call__"), (Span, "record_exception"))] and None
    for owner, name, original in undo:
        setattr(owner, name, original)


def test_what_others_have_wrapped_passes_on_and_serves_again(wrap: Callable[[], None]) -> None:
    """Our functions inside theirs do nothing once we have left, hold nothing of ours, and are used again by the next:
    none is added.
    """
    app = speaking_app()
    with pipeline(app=app) as first:
        first.run(b"text=one")
        wrap()
        reference = weakref.ref(first.instrumentor.recorder)  # type: ignore[arg-type]
    del first
    assert kept(reference) == []
    for _ in range(3):
        with pipeline(app=app) as again:
            again.run(b"text=two")
            assert again.counted(semconv.REQUESTS.name, "status") == {"success": 1}
            asyncio.run(again.ask(b"text=heliotrope&fail=1"))
            assert not any("heliotrope" in span.to_json() for span in again.spans())
        depth, function = 0, Starlette.__call__
        while hasattr(function, "__wrapped__"):
            depth, function = depth + 1, function.__wrapped__
        assert depth <= 2
    assert "RequestMiddleware" not in layers(app)


def test_the_tail_processor_that_stays_lets_everything_pass() -> None:
    """An SDK takes no processor back: it decides again for the next, and there is one however often."""
    provider = TracerProvider(sampler=TailSampler(0), shutdown_on_exit=False)
    for _ in range(3):
        instrumentor = VibeVoiceInstrumentor()
        instrumentor.instrument(tracer_provider=provider, meter_provider=MeterProvider(), skip_dep_check=True)
        provider.get_tracer("host").start_span("open")
        tails = [each for each in provider._active_span_processor._span_processors if isinstance(each, TailProcessor)]
        assert len(tails) == 1
        assert len(tails[0]._traces) == 1
        instrumentor.uninstrument()
        provider.get_tracer("host").start_span("passes")
        assert tails[0]._traces == {}
    assert not threads()


def test_every_layer_of_ours_has_app() -> None:
    """Who walks a stack finds what is further in."""
    app = speaking_app()
    with pipeline(app=app) as one:
        one.run(b"text=one")
        names = layers(app)
        assert names.index(OpenTelemetryMiddleware.__name__) < names.index(RequestMiddleware.__name__)
        assert "APIRouter" in names
