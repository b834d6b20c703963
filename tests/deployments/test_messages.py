"""What to speak comes as a message on the open socket: it is the text, and the time that a client takes to send it is
the client's.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from starlette.websockets import WebSocketDisconnect

from tests.support.signals import App, Signals, ask, request
from tests.support.talker import speak, talking
from vibevoice_otel import semconv

TYPING = 0.3
WORDS = "Good morning to you"


def as_json(told: Signals) -> App:
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        wanted = await socket.receive_json()
        await speak(
            socket,
            wanted["text"],
            cfg_scale=wanted.get("cfg", 1.5),
            inference_steps=wanted.get("steps"),
            voice_key=wanted.get("voice"),
        )

    return served(told, stream)


def as_text(told: Signals) -> App:
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await speak(socket, await socket.receive_text(), voice_key=socket.query_params.get("voice"))

    return served(told, stream)


def as_bytes(told: Signals) -> App:
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await speak(socket, (await socket.receive_bytes()).decode())

    return served(told, stream)


def after_settings(told: Signals) -> App:
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        settings = await socket.receive_json()
        await speak(socket, (await socket.receive_json())["text"], **settings)

    return served(told, stream)


def by_url(told: Signals) -> App:
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive_text()  # "ready"
        await speak(socket, socket.query_params["text"])

    return served(told, stream)


def served(told: Signals, endpoint: Any) -> FastAPI:
    app = FastAPI()
    app.add_api_websocket_route("/stream", endpoint)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=told.tracers, meter_provider=told.meters)
    return app


WAYS = {
    "JSON": (as_json, "", (TYPING, json.dumps({"text": WORDS, "voice": "en-Emma_woman", "cfg": 2.0, "steps": 3}))),
    "plain text, the voice in the URL": (as_text, "voice=en-Emma_woman", (TYPING, WORDS)),
    "bytes": (as_bytes, "", (TYPING, WORDS.encode())),
    "settings first, the text later": (
        after_settings, "", (json.dumps({"voice_key": "en-Emma_woman"}), TYPING, json.dumps({"text": WORDS})),
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_text_that_comes_as_a_message(way: str) -> None:
    """Its length is known, the client's typing is in no latency, part or duration, and the time of waiting is told by
    itself.
    """
    make, query, says = WAYS[way]
    with talking() as told:
        app, began = make(told), time.monotonic()
        asyncio.run(ask(app, "websocket", "/stream", query, says=says))
        took = time.monotonic() - began
        (root,) = told.attributes()
        assert root["status"] == "success"
        assert root["text.length"] == len(WORDS)
        assert root["text.wait"] >= TYPING
        rest = took - root["text.wait"]  # what had the typing in it would be longer
        assert 0 < root["first_audio.latency"] <= rest
        parts = sum(point.sum for point in told.points(semconv.FIRST_AUDIO_PART.name))
        assert parts == pytest.approx(root["first_audio.latency"], abs=1e-6)
        assert sum(point.sum for point in told.points(semconv.REQUEST_DURATION.name)) <= rest
        for name in (semconv.QUEUE.name, semconv.FIRST_CHUNK.name):
            (span,) = told.finished(name)
            assert ((span.end_time or 0) - (span.start_time or 0)) / 1e9 <= rest
        assert told.holding(WORDS) == set()


def test_what_a_message_asks_for_is_told() -> None:
    """Voice, cfg and steps of the message stand on the request as those of a URL do; a blank text is refused."""
    with talking() as told:
        for text in (WORDS, " "):
            message = json.dumps({"text": text, "voice": "en-Emma_woman", "cfg": 2.0, "steps": 3})
            asyncio.run(ask(as_json(told), "websocket", "/stream", says=(message,)))
        spoken, blank = told.attributes()
        assert (spoken["voice"], spoken["cfg"], spoken["steps"]) == ("en-Emma_woman", 2.0, 3)
        assert (blank["status"], blank["error.type"], blank["text.length"]) == ("rejected", "empty_text", 1)
        assert told.counted(semconv.FIRST_AUDIO.name, "text_length_range") == {"short": 1}


def test_a_text_in_the_url_counts_from_the_arrival() -> None:
    """A message that comes besides moves nothing: the service could have begun."""
    with talking() as told:
        asyncio.run(ask(by_url(told), "websocket", "/stream", "text=word", says=(TYPING, "ready")))
        (root,) = told.attributes()
        assert root["text.length"] == 4
        assert "text.wait" not in root
        assert root["first_audio.latency"] >= TYPING


def test_a_client_that_never_says_anything_and_leaves() -> None:
    """It left: no error, no length, no latency, and nothing in the objectives."""

    async def go() -> None:
        app, sent = as_json(told), list[Any]()
        came = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1001}])

        async def receive() -> Any:
            return next(came)

        async def send(message: Any) -> None:
            sent.append(message)

        with pytest.raises(WebSocketDisconnect):
            await app(request("websocket", "/stream", ""), receive, send)

    with talking() as told:
        asyncio.run(go())
        (root,) = told.attributes()
        assert root["status"] == "cancelled"
        assert not {"text.length", "text.wait", "first_audio.latency"} & set(root)
        assert told.counted(semconv.FIRST_AUDIO_SLI.name, "result") == {}
