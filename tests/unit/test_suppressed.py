"""``suppress_instrumentation``: a request that begins under it is observed by nobody, whatever thread serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, WebSocket
from opentelemetry.instrumentation.utils import suppress_instrumentation

from tests.support.pipeline import Pipeline, pipeline
from vibevoice_otel import semconv
from vibevoice_otel.service.engine import StreamingTTSService
from vibevoice_otel.service.settings import ServiceSettings


@pytest.fixture(scope="module")
def speech() -> StreamingTTSService:
    return StreamingTTSService(ServiceSettings())


def serving(speech: StreamingTTSService) -> FastAPI:
    """The work on a worker thread, and the generation on one of its own, as upstream's server has it."""
    app = FastAPI()

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        chunks = iter(speech.stream(socket.query_params["text"], inference_steps=2))
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            await socket.send_bytes(chunk.tobytes())
        await socket.close()

    return app


@pytest.fixture
def one(speech: StreamingTTSService) -> Iterator[Pipeline]:
    with pipeline(app=serving(speech)) as made:
        yield made


def _ours(one: Pipeline) -> list[str]:
    one.flush()
    counted = [
        name
        for name in (semconv.REQUESTS.name, semconv.INFERENCE.name, semconv.FIRST_AUDIO.name)
        if one.counted(name, "voice")
    ]
    return counted + [span.name for span in one.spans() if span.name.startswith("vibevoice.")]


def test_a_suppressed_request_is_in_nothing(one: Pipeline) -> None:
    """No span, no measurement, no timeline while it speaks, on the event loop, the worker and the generation thread;
    the audio is whole.
    """
    recorder = one.instrumentor.recorder
    assert recorder is not None
    seen: list[int] = []
    opened = recorder.open
    recorder.open = lambda *args, **kwargs: seen.append(1) or opened(*args, **kwargs)  # type: ignore[func-returns-value, method-assign]
    with suppress_instrumentation():
        answer = asyncio.run(one.ask(b"text=heliotrope"))
    assert answer.audio
    assert _ours(one) == []
    assert not seen
    assert not one.counted(semconv.DROPPED.name, "reason")
    assert not any("heliotrope" in span.to_json() for span in one.spans())
    asyncio.run(one.ask(b"text=hello"))
    assert semconv.REQUESTS.name in _ours(one)


def test_a_suppressed_script_is_in_nothing(one: Pipeline, speech: StreamingTTSService) -> None:
    """A program that calls the service itself: no stand-alone request, however the stream is read afterwards."""
    with suppress_instrumentation():
        chunks = speech.stream("hello", inference_steps=2)
        next(chunks)
    assert list(chunks)
    assert _ours(one) == []


def test_a_request_that_has_begun_is_recorded_whole(one: Pipeline, speech: StreamingTTSService) -> None:
    """It is not honoured half way through: a request has all of its spans or none."""
    chunks = speech.stream("hello", inference_steps=2)
    taken = [next(chunks)]
    with suppress_instrumentation():
        taken += list(chunks)
    one.flush()
    assert sum(span.name == semconv.STEP.name for span in one.spans()) == 2 * len(taken)
    assert one.counted(semconv.REQUESTS.name, "status") == {"success": 1}
