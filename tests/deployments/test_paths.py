"""A speech request is known under any path that a proxy, a server, a mount or a declaration gives it, without a
setting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Host, Mount, WebSocketRoute

from tests.support.signals import App, Signals, ask
from tests.support.talker import BYTES, StreamingTTSService, talk, talking
from vibevoice_otel import routes, semconv
from vibevoice_otel.privacy.query import Redactor
from vibevoice_otel.routes import SpeechRoutes
from vibevoice_otel.settings import Settings

CANARY = "heliotrope"


def fastapi(told: Signals, path: str = "/stream", **options: Any) -> FastAPI:
    app = FastAPI(**options)
    app.add_api_websocket_route(path, talk)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=told.tracers, meter_provider=told.meters)
    return app


def mounted(told: Signals) -> App:
    outer = FastAPI()
    outer.mount("/tts", fastapi(told))
    FastAPIInstrumentor.instrument_app(outer, tracer_provider=told.tracers, meter_provider=told.meters)
    return outer


def mounted_twice(told: Signals) -> App:
    return Starlette(routes=[Mount("/api", routes=[Mount("/tts", fastapi(told))])])


def mounted_with_middleware(told: Signals) -> App:
    cors = Middleware(CORSMiddleware, allow_origins=["*"])
    return Starlette(routes=[Mount("/tts", fastapi(told), middleware=[cors])])


def by_host(told: Signals) -> App:
    return Starlette(routes=[Host("localhost", fastapi(told))])


def included(told: Signals) -> App:
    app, router = FastAPI(), APIRouter()
    router.add_api_websocket_route("/stream", talk)
    app.include_router(router, prefix="/v1/speech")
    FastAPIInstrumentor.instrument_app(app, tracer_provider=told.tracers, meter_provider=told.meters)
    return app


#: The application, the path and the root_path that the server gives it.
PLACES: dict[str, tuple[Callable[[Signals], App], str, str]] = {
    "as it is": (fastapi, "/stream", ""),
    "uvicorn --root-path, a proxy that strips it": (fastapi, "/tts/stream", "/tts"),
    "FastAPI(root_path=), a proxy that strips it": (lambda told: fastapi(told, root_path="/tts"), "/stream", ""),
    "FastAPI(root_path=), a proxy that passes it on": (lambda told: fastapi(told, root_path="/tts"), "/tts/stream", ""),
    "a prefix that the proxy adds": (lambda told: fastapi(told, "/added/stream"), "/added/stream", ""),
    "mounted in another application": (mounted, "/tts/stream", ""),
    "mounted behind --root-path": (mounted, "/outer/tts/stream", "/outer"),
    "mounted twice": (mounted_twice, "/api/tts/stream", ""),
    "mounted behind a middleware of the mount's own": (mounted_with_middleware, "/tts/stream", ""),
    "by host name": (by_host, "/stream", ""),
    "a router with a prefix": (included, "/v1/speech/stream", ""),
    "a parameter before it": (lambda told: fastapi(told, "/rooms/{room}/stream"), "/rooms/17/stream", ""),
}


@pytest.mark.filterwarnings(
    "ignore:The `root_path` parameter is deprecated"
)  # the newest FastAPI's; many use it all the same
@pytest.mark.parametrize("place", PLACES)
def test_a_request_is_told_whole_under_any_path(place: str) -> None:
    """One that speaks and one that is refused for having no text: counted, with first audio, in the SERVER span's
    trace, no text told.
    """
    make, path, root_path = PLACES[place]
    with talking() as told:
        app = make(told)
        sent = asyncio.run(ask(app, "websocket", path, f"text={CANARY}&x={CANARY}", root_path=root_path))
        asyncio.run(ask(app, "websocket", path, "text=", root_path=root_path))
        assert sum(len(message.get("bytes") or b"") for message in sent) == BYTES
        assert told.counted(semconv.REQUESTS.name, "status") == {"success": 1, "rejected": 1}
        assert sum(told.counted(semconv.FIRST_AUDIO.name, "voice").values()) == 1
        assert told.holding(CANARY) == set()
        (first, _) = sorted(told.finished(semconv.SYNTHESIZE.name), key=lambda span: span.start_time or 0)
        server = {span.context.span_id: span for span in told.servers()}[first.parent.span_id if first.parent else 0]
        assert server.attributes is not None
        assert server.attributes["vibevoice.status"] == "success"
        assert len(told.servers()) == 2


@pytest.mark.parametrize(
    ("declared", "path"),
    [
        ("/rooms/{room}/talk", "/rooms/17/talk"), ("/rooms/{room:int}/talk", "/tts/rooms/17/talk"),
        ("/v{n}/{who}", "/v2/x"),
        ("/files/{rest:path}", "/files/a/b/c"), ("/files/{rest:path}/talk", "/tts/files/a/b/talk"),
    ],
)  # fmt: skip
def test_a_route_is_named_as_it_is_declared(declared: str, path: str) -> None:
    """VIBEVOICE_OTEL_ROUTES takes parameters in braces: a refusal there counts, and nothing of the query is told."""
    with talking(Settings(routes=(declared,))) as told:
        asyncio.run(ask(fastapi(told, declared), "websocket", path.removeprefix("/tts"), f"text=&x={CANARY}"))
        assert told.counted(semconv.REQUESTS.name, "status") == {"rejected": 1}
        assert told.holding(CANARY) == set()
    assert path in SpeechRoutes([declared])


@pytest.mark.parametrize(
    ("declared", "path"),
    [
        ("/rooms/{room}/talk", "/rooms//talk"), ("/rooms/{room}/talk", "/rooms/a/b/talk"),
        ("/rooms/{room}/talk", "/talk"), ("/files/{rest:path}/talk", "/files/talk"), ("/{x}", ""),
    ],
)  # fmt: skip
def test_what_a_declared_route_leaves_alone(declared: str, path: str) -> None:
    """A parameter stands for one segment that is not empty, ``:path`` for any rest."""
    assert path not in SpeechRoutes([declared])


def test_a_route_that_speaks_unknown_is_told_whole_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """On a route that nobody named a WebSocket is no request until it speaks; then it is one from its arrival, one line
    names the route, and from there on its refusals count and its whole query is hidden.
    """
    caplog.set_level(logging.WARNING)
    with talking() as told:
        app = fastapi(told, "/say/{who}")

        async def silent(socket: Any) -> None:
            await socket.accept()
            await socket.close()

        app.add_api_websocket_route("/chat", silent)
        redactor = Redactor(("/stream",), lambda _name: False)
        assert redactor.query("/say/me", b"x=1") == b"x=1"
        for path in ("/chat", "/say/me", "/say/you", "/chat"):
            asyncio.run(ask(app, "websocket", path, f"text={CANARY}"))
        asyncio.run(ask(app, "websocket", "/say/them", "text="))
        assert told.counted(semconv.REQUESTS.name, "status") == {"success": 2, "rejected": 1}
        assert sum(told.counted(semconv.FIRST_AUDIO.name, "voice").values()) == 2
        assert [span["status"] for span in told.attributes()] == ["success", "success", "rejected"]
        assert {
            span["vibevoice.status"]
            for span in (dict(each.attributes or {}) for each in told.servers())
            if "vibevoice.status" in span
        }
        assert redactor.query("/say/me", b"x=1") == b"REDACTED"
        (queue, *_) = told.finished(semconv.QUEUE.name)
        (root, *_) = sorted(told.finished(semconv.SYNTHESIZE.name), key=lambda span: span.start_time or 0)
        assert (root.start_time or 0) <= (queue.start_time or 0)
    lines = [record.getMessage() for record in caplog.records if "VIBEVOICE_OTEL_ROUTES" in record.getMessage()]
    assert len(lines) == 1
    assert "/say/{who} " in lines[0]


@pytest.mark.parametrize(("named", "lines"), [("/say", 0), ("/stream", 1)])
def test_a_route_of_http_is_said_only_where_no_setting_names_it(
    named: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The line asks for a setting, so there is none where it is set."""
    caplog.set_level(logging.WARNING)
    with talking(Settings(routes=(named,))) as told:
        app = FastAPI()
        app.add_api_route("/say", lambda text: len(list(StreamingTTSService().stream(text))))
        FastAPIInstrumentor.instrument_app(app, tracer_provider=told.tracers, meter_provider=told.meters)
        for _ in range(2):
            asyncio.run(ask(app, "http", "/say", f"text={CANARY}"))
        assert len(told.attributes()) == 2
        assert told.holding(CANARY) == set()
    assert sum("VIBEVOICE_OTEL_ROUTES" in record.getMessage() for record in caplog.records) == lines


@pytest.mark.parametrize(("named", "rejected"), [(None, 0), ("/stream", 1)])
def test_a_scan_of_routes_that_speak_over_websockets_counts_nothing(named: str | None, rejected: int) -> None:
    """A plain GET meets a 404 where a WebSocket speaks, by the default's name or learned; only where the operator named
    the route is it a refusal of speech.
    """
    with talking(None if named is None else Settings(routes=(named,))) as told:
        app = fastapi(told, "/stream")
        app.add_api_websocket_route("/say/{who}", talk)
        for path in ("/stream", "/say/me"):
            asyncio.run(ask(app, "websocket", path, "text=hello"))
        for path in ("/stream", "/say/me", "/say/you"):
            asyncio.run(ask(app, "http", path, f"text={CANARY}"))
        counted = told.counted(semconv.REQUESTS.name, "status")
        assert (counted["success"], counted.get("rejected", 0)) == (2, rejected)
        assert told.holding(CANARY) == set()


def test_a_refusal_counts_on_a_route_that_has_spoken_over_http() -> None:
    """The same path may speak both ways: from its first speech over HTTP its refusals there count."""
    with talking() as told:
        app = fastapi(told, "/say")

        async def refuse(text: str) -> list[int]:
            if text == "refused":
                raise HTTPException(404)
            return [len(chunk) for chunk in StreamingTTSService().stream(text)]

        app.add_api_route("/say", refuse)
        asyncio.run(ask(app, "websocket", "/say", "text=hello"))
        for text in ("refused", "hello", "refused"):
            asyncio.run(ask(app, "http", "/say", f"text={text}"))
        assert told.counted(semconv.REQUESTS.name, "status") == {"success": 2, "rejected": 1}


def test_so_many_routes_are_learned_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """Where an application declares none, a path is a client's own words: twenty are remembered, with a line each."""
    caplog.set_level(logging.WARNING)
    routes._learned.clear()
    for number in range(100):
        routes.learn(f"/{number}", over_http=False)
        routes.learn(f"/{number}", over_http=False)
    assert len(routes._learned) == len(caplog.records) == routes.MAX_LEARNED
    assert "/3" in SpeechRoutes(["/stream"])
    assert "/77" not in SpeechRoutes(["/stream"])
    routes._learned.clear()


@pytest.mark.parametrize("layered", [True, False])
def test_an_application_without_starlettes_router_in_between(layered: bool) -> None:
    """A plain Starlette application, with contrib's layer and without any: the same facts; without one there is no
    SERVER span to tell.
    """
    with talking() as told:
        app = Starlette(routes=[WebSocketRoute("/stream", talk)])
        if layered:
            from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

            app.add_middleware(OpenTelemetryMiddleware, tracer_provider=told.tracers)
        asyncio.run(ask(app, "websocket", "/stream", "text=a"))
        assert told.counted(semconv.REQUESTS.name, "status") == {"success": 1}
        assert len(told.servers()) == layered
