"""Whatever OpenTelemetry layer an application has, wherever it has it: none sees the spoken text, everything else sees
it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from starlette.applications import Starlette
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware as StarletteLayer
from starlette.routing import Mount

from tests.reliability.harness import Service, Sink, wait_for
from tests.support.signals import App, Signals, ask, request, signals
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.privacy.layers import Told, is_layer
from vibevoice_otel.settings import Settings

CANARY = "heliotrope"
Heard = list[str]


def speech(heard: Heard, **options: Any) -> FastAPI:
    """Speaks, fails with a message that quotes the text, or wants a number; on HTTP as on WebSocket."""
    options.setdefault("telemetry", {"tracing": False, "metrics": False, "logs": False})
    app = FastAPI(**options)

    @app.websocket("/stream")
    async def stream(socket: WebSocket, times: int = 2) -> None:
        await socket.accept()
        heard.append(socket.query_params["text"])
        for _ in range(times):
            await socket.send_bytes(b"\1\2" * 1600)
        if "fail" in socket.query_params:
            raise RuntimeError(f"cannot say {socket.query_params['text']}")
        await socket.close()

    @app.get("/stream")
    async def collected(text: str, times: int = 1, fail: int = 0) -> int:
        heard.append(text)
        if fail:
            raise RuntimeError(f"cannot say {text}")
        return times

    return app


def around(told: Signals, heard: Heard) -> App:
    app = speech(heard)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=told.tracers, meter_provider=told.meters)
    return app


def behind_cors(told: Signals, heard: Heard) -> App:
    app = speech(heard)
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=told.tracers, meter_provider=told.meters)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    return app


def twice(told: Signals, heard: Heard) -> App:
    app = speech(heard)
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=told.tracers, meter_provider=told.meters)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    FastAPIInstrumentor.instrument_app(app, tracer_provider=told.tracers, meter_provider=told.meters)
    return app


def in_a_mount(told: Signals, heard: Heard) -> App:
    return Starlette(routes=[Mount("/tts", around(told, heard))])


def outside_of_everything(told: Signals, heard: Heard) -> App:
    return OpenTelemetryMiddleware(speech(heard), tracer_provider=told.tracers, meter_provider=told.meters)


def starlettes_own(told: Signals, heard: Heard) -> App:
    app = speech(heard)
    app.add_middleware(StarletteLayer, tracer_provider=told.tracers, meter_provider=told.meters)
    return app


def fastapis_own(told: Signals, heard: Heard) -> App:
    return speech(
        heard,
        telemetry={"tracer_provider": told.tracers, "meter_provider": told.meters, "logger_provider": told.loggers},
    )


def fastapis_own_in_a_mount(told: Signals, heard: Heard) -> App:
    return Starlette(routes=[Mount("/tts", fastapis_own(told, heard))])


#: The application, the path of speech in it, and the signals that hold the text without us, on HTTP and on WebSocket.
LAYERS: dict[str, tuple[Callable[[Signals, Heard], App], str, set[str], set[str]]] = {
    "contrib's around the application": (around, "/stream", {"spans", "logs"}, {"spans", "logs"}),
    "contrib's behind CORS": (behind_cors, "/stream", {"spans", "logs"}, {"spans", "logs"}),
    "contrib's around it and behind CORS": (twice, "/stream", {"spans", "logs"}, {"spans", "logs"}),
    "contrib's in a mount": (in_a_mount, "/tts/stream", {"spans", "logs"}, {"spans", "logs"}),
    "contrib's outside of everything": (outside_of_everything, "/stream", {"spans", "logs"}, {"spans", "logs"}),
    "starlette's own": (starlettes_own, "/stream", {"spans", "logs"}, {"logs"}),
    "FastAPI's own": (fastapis_own, "/stream", {"spans", "logs"}, {"logs"}),
    "FastAPI's own in a mount": (fastapis_own_in_a_mount, "/tts/stream", {"spans", "logs"}, {"logs"}),
}


async def go_through(app: App, kind: str, path: str) -> None:
    """A request that speaks, one that fails with the text in its message, one whose parameter is refused with its input
    quoted.
    """
    await ask(app, kind, path, f"text={CANARY}&voice={CANARY}")
    await ask(app, kind, path, f"text={CANARY}&fail=1")
    await ask(app, kind, path, f"text={CANARY}&times={CANARY}")


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("name", LAYERS)
def test_no_layer_sees_the_text(name: str, kind: str) -> None:
    """Without us the text stands in spans or log records; with us in none, in no metric, and the endpoint reads it all
    the same.
    """
    make, path, on_http, on_websocket = LAYERS[name]
    leaks = on_http if kind == "http" else on_websocket
    for observed in (False, True):
        heard: Heard = []
        with signals(observed=observed) as told:
            asyncio.run(go_through(make(told, heard), kind, path))
            assert told.holding(CANARY) == (set() if observed else leaks)
        assert heard == [CANARY, CANARY]


@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("contrib")])
def test_no_layer_makes_a_span_for_a_single_message(name: str) -> None:
    """A span of each WebSocket message without us, none with us; VIBEVOICE_OTEL_WEBSOCKET_SPANS keeps them."""
    make, path, _, _ = LAYERS[name]
    counted = []
    for observed, settings in ((False, None), (True, None), (True, Settings(websocket_spans=True))):
        with signals(observed=observed, settings=settings) as told:
            asyncio.run(ask(make(told, []), "websocket", path, "text=a"))
            counted.append(sum(span.name.endswith((" receive", " send")) for span in told.finished()))
    stock, ours, kept = counted
    assert stock >= 5, "the accepting, two chunks, the close and what was received"
    assert ours == 0
    assert kept == stock


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("layers", [("contrib",), ("FastAPI's own",), ("contrib", "FastAPI's own")], ids=" and ".join)
def test_fastapi_makes_one_server_span(layers: tuple[str, ...], kind: str) -> None:
    """FastAPI steps aside for contrib's layer where it finds it, through ours too: one SERVER span and one measurement,
    as without us.
    """
    for observed in (False, True):
        with signals(observed=observed) as told:
            app = fastapis_own(told, []) if "FastAPI's own" in layers else speech([])
            if "contrib" in layers:
                FastAPIInstrumentor.instrument_app(app, tracer_provider=told.tracers, meter_provider=told.meters)
            for _ in range(2):
                asyncio.run(ask(app, kind, "/stream", "text=a"))
            measured = [*told.points("http.server.duration"), *told.points("http.server.request.duration")]
            assert len(told.servers()) == 2
            assert sum(point.count for point in measured) == (2 if kind == "http" else 0)


class Reads:
    """An operator's middleware that looks for ``?token=`` at every instant: as it is called, at each message, and as it
    is left.
    """

    def __init__(
        self, app: App, place: str, seen: list[tuple[str, bytes]], pause: asyncio.Barrier | None = None
    ) -> None:
        self.app, self._place, self._seen, self._pause = app, place, seen, pause

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        def look() -> None:
            assert not isinstance(scope, Told)
            self._seen.append((self._place, scope["query_string"]))

        async def sending(message: Any) -> None:
            look()
            await send(message)

        async def receiving() -> Any:
            message = await receive()
            look()
            return message

        look()
        if self._pause is not None:
            await self._pause.wait()  # all have come
            await self._pause.wait()  # we have left
        await self.app(scope, receiving, sending)
        look()


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_everything_but_a_layer_reads_the_true_scope(kind: str) -> None:
    """Outside, between and inside two layers of OpenTelemetry's, an authorisation by ``?token=`` reads what the client
    sent, always.
    """
    query, heard, seen = f"text={CANARY}&token=t1", Heard(), list[tuple[str, bytes]]()
    with signals(observed=True) as told:
        app = speech(heard)
        for place in ("inside", "layer", "between", "layer", "outside"):
            if place == "layer":
                app.add_middleware(OpenTelemetryMiddleware, tracer_provider=told.tracers, meter_provider=told.meters)
            else:
                app.add_middleware(Reads, place, seen)
        asyncio.run(ask(app, kind, "/stream", query))
        assert {place for place, _ in seen} == {"outside", "between", "inside"}
        assert {read for _, read in seen} == {query.encode()}
        assert heard == [CANARY]
        assert told.holding(CANARY) == set()
        assert len(told.servers()) == 1


def is_hooked() -> bool:
    return hasattr(OpenTelemetryMiddleware.__call__, "__vibevoice_otel__")


async def test_uninstrument_with_requests_in_flight_tells_and_changes_nothing() -> None:
    """Twenty streams and one request that waits between two layers, and then we leave: every listener has its bytes,
    every reader the true query, and the layers never learn the text.
    """
    query, heard, seen, pause = f"text={CANARY}&token=t1", Heard(), list[tuple[str, bytes]](), asyncio.Barrier(22)
    with signals(observed=True) as told:
        app = speech(heard)
        for place in ("layer", "between", "layer"):
            if place == "layer":
                app.add_middleware(OpenTelemetryMiddleware, tracer_provider=told.tracers, meter_provider=told.meters)
            else:
                app.add_middleware(Reads, place, seen, pause)
        asked = [asyncio.create_task(ask(app, "websocket", "/stream", query)) for _ in range(21)]
        await pause.wait()
        VibeVoiceInstrumentor().uninstrument()
        assert is_hooked()
        await pause.wait()
        answers = await asyncio.gather(*asked)
        assert not is_hooked(), "the hiding has left with the last of them"
        assert [sum(len(message.get("bytes") or b"") for message in sent) for sent in answers] == [6400] * 21
        assert heard == [CANARY] * 21
        assert {read for _, read in seen} == {query.encode()}
        assert told.holding(CANARY) == set()


def test_fastapis_own_under_the_launcher(start: Callable[..., Service], sink: Sink) -> None:
    """Contrib's FastAPI instrumentation is off, so FastAPI's own is on: in nothing that a real service sends stands the
    text.
    """
    service = start(
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="fastapi", OTEL_LOGS_EXPORTER="otlp", OTEL_BLRP_SCHEDULE_DELAY="200",
        VIBEVOICE_OTEL_ROUTES="/stream,/speech",
    )  # fmt: skip
    service.speak(2, text=CANARY)
    service.speak(1, text=CANARY, fail=1)
    assert service.post("/speak", CANARY) == 500
    assert wait_for(lambda: sum(sink.roots().values()) == 3), service.log
    assert wait_for(lambda: {"POST /speak", "WS /stream"} <= {span.name for span in sink.spans()}), service.log
    assert wait_for(lambda: len([each for each in sink.log_records() if "exception.type" in str(each)]) >= 2), (
        service.log
    )
    assert CANARY not in sink.all_text()


def test_a_layer_is_known_by_module_and_class() -> None:
    """contrib's, starlette's, a class that extends one of them; another library's class of the same name is none."""

    class Extended(OpenTelemetryMiddleware):
        pass

    class Other:
        pass

    Other.__name__ = Other.__qualname__ = "OpenTelemetryMiddleware"
    app = speech([])
    assert is_layer(OpenTelemetryMiddleware(app))
    assert is_layer(StarletteLayer(app))
    assert is_layer(Extended(app))
    assert not is_layer(Other())
    assert not is_layer(app)


def test_a_scope_as_it_may_be_told_prints_nothing_of_the_true_one() -> None:
    """A hook of the operator's may put ``str(scope)`` on a span, or a layer say it in an exception."""
    told = Told({"type": "http", "query_string": b"text=kumquat"}, {"query_string": b"text=REDACTED"})
    assert "kumquat" not in f"{told} {told!r} {dict(told)} {told.copy()}"


def test_what_a_layer_writes_is_in_the_scope() -> None:
    """A view reads and writes the scope, but for what it hides; a copy that a layer makes of it becomes true again."""
    scope = request("http", "/stream", "text=a")
    told = Told(scope, {"query_string": b"text=REDACTED", "absent": 1})
    told["route"] = 7
    scope["endpoint"] = 8
    assert (scope["route"], told["endpoint"], told["query_string"]) == (7, 8, b"text=REDACTED")
    assert "absent" not in told
    assert len(told) == len(scope)
    assert told.true(told) is scope
    assert told.true(told.copy()) == scope
    del told["route"]
    assert "route" not in scope
