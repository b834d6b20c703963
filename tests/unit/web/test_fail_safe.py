"""Whatever telemetry meets on a WebSocket, the listener is served."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from flask import Flask
from flask.testing import FlaskClient
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from tests.support.metrics import dropped
from vibevoice_otel import failures
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.privacy import query
from vibevoice_otel.recording import outcome
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.settings import Settings
from vibevoice_otel.web import asgi, ends


@pytest.mark.parametrize("around", [lambda app: app, OpenTelemetryMiddleware, ServerErrorMiddleware])
def test_a_server_takes_an_application_for_one(around: Callable[[Any], Any]) -> None:
    """Uvicorn calls what it serves without arguments, and takes it for a factory unless that fails at once."""
    instrumentor = VibeVoiceInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider(), meter_provider=MeterProvider(), skip_dep_check=True)
    try:
        app = around(Starlette())
        config = uvicorn.Config(app, proxy_headers=False)
        config.load()
    finally:
        instrumentor.uninstrument()
    assert config.interface == "asgi3"
    assert config.loaded_app is app


def test_a_server_takes_flask_for_an_application() -> None:
    """The same question over WSGI is no failure of ours."""
    instrumentor = VibeVoiceInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider(), meter_provider=MeterProvider(), skip_dep_check=True)
    try:
        app = Flask("served")
        with pytest.raises(TypeError, match="environ"):
            app()  # type: ignore[call-arg]
        assert FlaskClient(app).get("/").status_code == 404
    finally:
        instrumentor.uninstrument()


class Broken(Exception):
    """A mistake of ours; its message quotes what must not be told."""

    def __init__(self) -> None:
        super().__init__("canary7f3a")


WEB = {
    "opening a request": (Recorder, "open"),
    "ending a request": (Recorder, "release"),
    "reading the query": (query, "asked"),
    "reading the baggage": (ends, "baggage"),
    "deciding the outcome": (outcome, "decide"),
    "telling the SERVER span": (ends, "tell"),
    "noting a message": (asgi.SocketExchange, "_sent"),
    "hiding the query": (query.Redactor, "query"),
}


@pytest.mark.parametrize("what", WEB)
@pytest.mark.swallows("Broken")
def test_the_webs_hooks_may_fail(what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Each thing done for a WebSocket, broken: the listener has his audio and the close code, the failure is counted
    every time and logged once for each place where it shows, without what the exception says.
    """
    audio = b"\1\2" * 100

    async def speak(socket: WebSocket) -> None:
        await socket.accept()
        assert socket.query_params["text"] == "hello"
        await socket.send_bytes(audio)
        await socket.close(1000)

    app = Starlette(routes=[WebSocketRoute("/stream", speak)], middleware=[Middleware(OpenTelemetryMiddleware)])
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    instrumentor = VibeVoiceInstrumentor()
    instrumentor.instrument(
        tracer_provider=TracerProvider(), meter_provider=meters, settings=Settings(), skip_dep_check=True
    )

    assert instrumentor.recorder is not None  # as when a model's code has been imported

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise Broken

    monkeypatch.setattr(failures, "_logged", set())
    try:
        assert asyncio.run(_ask(app)) == ["websocket.accept", audio, 1000]
        owner, name = WEB[what]
        monkeypatch.setattr(owner, name, broken)
        for _ in range(3):
            assert asyncio.run(_ask(app)) == ["websocket.accept", audio, 1000]
        recorder = instrumentor.recorder
        assert recorder is not None
        recorder.flush()
        monkeypatch.undo()
        assert asyncio.run(_ask(app)) == ["websocket.accept", audio, 1000]
        assert dropped(reader) >= 3
        told = Counter(
            str(record.args[0]) for record in caplog.records if record.name == failures.__name__ and record.args
        )
        assert told
        assert set(told.values()) == {1}
        assert "canary7f3a" not in caplog.text
    finally:
        instrumentor.uninstrument()
        meters.shutdown()


async def _ask(app: Any) -> list[Any]:
    heard: list[Any] = []
    asked = iter([{"type": "websocket.connect"}])

    async def receive() -> Any:
        for message in asked:
            return message
        return await asyncio.sleep(3600)

    async def send(message: Any) -> None:
        kind = message["type"]
        heard.append(
            message["bytes"] if kind == "websocket.send" else message["code"] if kind == "websocket.close" else kind
        )

    scope = {
        "type": "websocket", "path": "/stream", "raw_path": b"/stream", "query_string": b"text=hello", "headers": [],
        "root_path": "",
        "subprotocols": [], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "scheme": "ws",
        "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app(scope, receive, send)
    return heard
