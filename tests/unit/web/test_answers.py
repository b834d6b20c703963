"""What the caller is told: nothing by default, by a setting the trace, and over HTTP the times known when the answer
begins.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from opentelemetry.instrumentation import propagators
from opentelemetry.trace import SpanKind

from tests.support.pipeline import CALLER, Pipeline, caller, pipeline, speaking_app
from vibevoice_otel import semconv
from vibevoice_otel.recording.candidate import arrival
from vibevoice_otel.recording.clock import now
from vibevoice_otel.settings import Settings


def speaking_http_app() -> FastAPI:
    app = speaking_app()

    @app.post("/v1/audio/speech")
    async def speech() -> StreamingResponse:
        candidate = arrival.get()
        assert candidate is not None
        at = now()
        candidate.note(semconv.QUEUE, at - 12_000_000, at)
        candidate.open()

        async def body() -> Any:
            yield bytes(3200)

        return StreamingResponse(body(), media_type="audio/L16;rate=24000", headers={"x-own": "kept"})

    return app


@pytest.fixture(params=[True, False])
def switch(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def observed(switch: bool) -> Iterator[Pipeline]:
    with pipeline(settings=Settings(response_headers=switch), app=speaking_http_app()) as running:
        assert running.instrumentor.recorder is not None
        yield running


def posted(observed: Pipeline) -> dict[str, str]:
    """The headers of an answer over HTTP."""
    found: dict[str, str] = {}
    asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in asked:
            return message
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        found.update({name.decode(): value.decode() for name, value in message.get("headers", ())})

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/audio/speech",
        "raw_path": b"/v1/audio/speech", "query_string": b"", "root_path": "",
        "headers": [(b"host", b"localhost"), *caller(sampled=True)],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
    }  # fmt: skip
    asyncio.run(observed.app(scope, receive, send))  # type: ignore[arg-type]
    observed.flush()
    return found


def server_span(observed: Pipeline) -> str:
    (span,) = (span for span in observed.spans() if span.kind is SpanKind.SERVER)
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def test_a_websocket_is_accepted_with_the_trace(observed: Pipeline, switch: bool) -> None:
    """The handshake's answer names the SERVER span, in the caller's own trace."""
    (answer,) = observed.run(b"text=hello", headers=caller(sampled=True))
    headers = dict(answer.messages[0].get("headers", ()))
    assert answer.messages[0]["type"] == "websocket.accept"
    assert headers.get(b"traceresponse") == (server_span(observed).encode() if switch else None)
    assert CALLER in server_span(observed)


def test_http_answers_with_trace_and_times(observed: Pipeline, switch: bool) -> None:
    """Traceresponse and Server-Timing beside the service's own headers; each time is that of a part, and the total
    comes last.
    """
    headers = posted(observed)
    assert headers["x-own"] == "kept"
    assert headers.get("traceresponse") == (server_span(observed) if switch else None)
    if switch:
        assert re.fullmatch(r"queue;dur=12\.0, total;dur=\d+\.\d", headers["server-timing"])
    else:
        assert "server-timing" not in headers


@pytest.mark.parametrize("switch", [True], indirect=True)
def test_a_program_s_own_propagator_is_left_alone(observed: Pipeline) -> None:
    """Where the program answers with a propagator of its own, there is one traceresponse and not two."""
    propagators.set_global_response_propagator(propagators.TraceResponsePropagator())
    try:
        (answer,) = observed.run(b"text=hello")
    finally:
        propagators.set_global_response_propagator(None)
    names = [name for name, _ in answer.messages[0].get("headers", ())]
    assert names.count(b"traceresponse") <= 1
