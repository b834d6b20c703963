"""A WSGI request from the application's call to the close of its body: how it ended is what the server did with it."""

from __future__ import annotations

import asyncio
import io
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest
from flask import Flask, Response, request
from opentelemetry.instrumentation.utils import suppress_instrumentation
from starlette.applications import Starlette
from starlette.responses import Response as Answer
from starlette.routing import Route
from starlette.testclient import TestClient
from waitress import create_server
from werkzeug.serving import make_server

from tests.support.pipeline import CALLER, Pipeline, caller, pipeline
from vibevoice_otel import semconv
from vibevoice_otel.deferred import DeferredRecorder
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.service.engine import StreamingTTSService
from vibevoice_otel.service.settings import ServiceSettings
from vibevoice_otel.settings import DEFAULT_ROUTES, Settings
from vibevoice_otel.web.flask import FlaskAdapter
from vibevoice_otel.web.wsgi import WsgiExchange

TEXT = "Good evening, canary7f3a."
KIND = "audio/pcm;rate=24000"


@pytest.fixture(scope="module")
def speech() -> StreamingTTSService:
    """The embedded service's model: a real one, tiny."""
    return StreamingTTSService(ServiceSettings())


@pytest.fixture
def flask(speech: StreamingTTSService) -> Flask:
    app = Flask("speaking")

    def pcm(text: str) -> Iterator[bytes]:
        for chunk in speech.stream(text, inference_steps=2):
            yield speech.chunk_to_pcm16(chunk)

    @app.post("/v1/audio/speech")
    def stream() -> Response:
        return Response(pcm(request.get_json()["input"]), mimetype=KIND)

    @app.post("/broken")
    def broken() -> Response:
        def parts() -> Iterator[bytes]:
            yield from list(pcm(TEXT))[:1]
            raise ValueError(TEXT)

        return Response(parts(), mimetype=KIND)

    @app.post("/whole")
    def whole() -> Response:
        return Response(b"".join(pcm(TEXT)), mimetype=KIND)

    @app.get("/file")
    def file() -> Response:
        wrapper = request.environ.get("wsgi.file_wrapper", FileWrapper)
        return Response(wrapper(io.BytesIO(b"a file")), direct_passthrough=True)

    return app


@pytest.fixture
def observed() -> Iterator[Pipeline]:
    with pipeline() as made:
        yield made


def environ(
    path: str = "/v1/audio/speech", body: bytes = b'{"input": "%s"}' % TEXT.encode(), **more: Any
) -> dict[str, Any]:
    found = {
        "REQUEST_METHOD": "POST", "PATH_INFO": path, "CONTENT_TYPE": "application/json", "wsgi.input": io.BytesIO(body),
        "CONTENT_LENGTH": str(len(body)), "wsgi.file_wrapper": FileWrapper, **more,
    }  # fmt: skip
    setup_testing_defaults(found)
    return found


def take(app: Flask, asked: dict[str, Any], most: int = 1_000_000, fails: BaseException | None = None) -> bytes:
    """What a WSGI server does: takes ``most`` parts, the next of which it cannot send where ``fails`` is given."""
    heard = b""
    body: Any = app(asked, lambda *_: None)
    try:
        for count, part in enumerate(body):
            if fails is not None and count == most:
                raise fails
            heard += part
            if fails is None and count + 1 == most:
                break
    finally:
        body.close()
    return heard


def ended(observed: Pipeline) -> tuple[dict[str, int], dict[str, int]]:
    """Requests by status, errors by type; the text is in no span."""
    observed.flush()
    assert TEXT not in str([(span.to_json()) for span in observed.spans()])
    return (
        dict(observed.counted(semconv.REQUESTS.name, "status")),
        dict(observed.counted(semconv.ERRORS.name, "error_type")),
    )


@contextmanager
def serving(app: Flask, kind: str) -> Iterator[int]:
    """A real server on a loopback port."""
    if kind == "waitress":
        waitress = create_server(app, host="127.0.0.1", port=0, threads=2)
        port, run, stop = waitress.effective_port, waitress.run, waitress.close
    else:
        werkzeug = make_server("127.0.0.1", 0, app, threaded=True)
        port, run, stop = werkzeug.port, werkzeug.serve_forever, werkzeug.shutdown
    thread = threading.Thread(target=_until_closed, args=(run,), daemon=True)
    thread.start()
    try:
        yield port
    finally:
        stop()
        thread.join(5)


def _until_closed(run: Callable[[], None]) -> None:
    try:
        run()
    except OSError:  # waitress selects on a socket that is closed
        return


@pytest.mark.parametrize("kind", ["waitress", "werkzeug"])
def test_a_real_model_under_a_real_server(observed: Pipeline, flask: Flask, kind: str) -> None:
    """Streamed: one whole request in the caller's trace, its audio that of the body, without any layer of
    OpenTelemetry's.
    """
    with serving(flask, kind) as port:
        headers = {"content-type": "application/json", "traceparent": caller(sampled=True)[0][1].decode()}
        address = f"http://127.0.0.1:{port}/v1/audio/speech"
        asked = urllib.request.Request(address, b'{"input": "%s"}' % TEXT.encode(), headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            heard = answer.read()
    assert ended(observed) == ({"success": 1}, {})
    (root,) = [span for span in observed.spans() if span.name == semconv.SYNTHESIZE.name]
    assert format(root.context.trace_id, "032x") == CALLER
    assert root.parent is not None
    assert root.attributes is not None
    assert root.attributes[semconv.AUDIO_DURATION.key] == pytest.approx(len(heard) / 48_000)
    assert root.attributes[semconv.TEXT_LENGTH.key] == len(TEXT)
    assert semconv.FIRST_AUDIO_LATENCY.key in root.attributes
    assert len([span for span in observed.spans() if span.name == semconv.GENERATE.name]) == 1


@pytest.mark.parametrize(
    ("most", "fails", "status", "error"),
    [
        (1_000_000, None, "success", None),
        (2, None, "cancelled", None),
        (2, BrokenPipeError(), "cancelled", None),
        (2, ConnectionResetError(), "cancelled", None),
        (2, ValueError("a server's bug"), "error", "ValueError"),
        (2, SystemExit(1), "error", "SystemExit"),
    ],
)
def test_what_the_server_does_with_the_body(
    observed: Pipeline, flask: Flask, most: int, fails: BaseException | None, status: str, error: str | None
) -> None:
    """Taken to its end, closed before it, or closed because a send failed."""
    try:
        heard = take(flask, environ(), most, fails)
    except BaseException as raised:
        if raised is not fails:
            raise
    else:
        assert heard
    assert ended(observed) == ({status: 1}, {error: 1} if error else {})


def test_a_body_that_fails_is_an_error(observed: Pipeline, flask: Flask) -> None:
    """The application's own exception decides, not the close after it."""
    with pytest.raises(ValueError, match="canary"):
        take(flask, environ("/broken"))
    assert ended(observed) == ({"error": 1}, {"ValueError": 1})


def test_all_that_was_announced_is_all(observed: Pipeline, flask: Flask) -> None:
    """A server that takes as many bytes as Content-Length says, and closes without asking for more, had everything."""
    take(flask, environ("/whole"), most=1)
    assert ended(observed) == ({"success": 1}, {})


def test_a_file_is_given_on_as_it_is(observed: Pipeline, flask: Flask) -> None:
    """The server knows its own wrapper by its class, and sends the file by itself."""
    asked = environ("/file", REQUEST_METHOD="GET")
    given: Any = flask(asked, lambda *_: None)
    assert isinstance(given, FileWrapper)
    given.close()
    assert ended(observed) == ({}, {})


def test_the_answer_tells_of_itself_where_asked(flask: Flask) -> None:
    """Traceresponse and Server-Timing beside the application's headers, when the operator wants them."""
    told: list[tuple[str, str]] = []
    with pipeline(settings=Settings(response_headers=True)) as observed:
        body: Any = flask(
            environ(HTTP_TRACEPARENT=caller(sampled=True)[0][1].decode()),
            lambda _status, headers, *_: told.extend(headers),
        )
        for _ in body:
            pass
        body.close()
        observed.flush()
    headers = {name.lower(): value for name, value in told}
    assert headers["content-type"].startswith("audio/pcm")
    assert "total;dur=" in headers["server-timing"]


def test_inside_an_asgi_application_one_request(observed: Pipeline, flask: Flask) -> None:
    """Called by a Starlette application on a thread, whose exchange is the request's."""

    async def speech(_request: object) -> Answer:
        return Answer(await asyncio.to_thread(take, flask, environ()), media_type=KIND)

    with TestClient(Starlette(routes=[Route("/v1/audio/speech", speech, methods=["POST"])])) as client:
        assert client.post("/v1/audio/speech").status_code == 200
    assert ended(observed) == ({"success": 1}, {})


def test_a_suppressed_request_is_in_nothing(observed: Pipeline, flask: Flask) -> None:
    """``suppress_instrumentation`` around the server's call and its taking of the body."""
    with suppress_instrumentation():
        assert take(flask, environ("/whole"))
    assert ended(observed) == ({}, {})


def test_a_request_in_flight_at_uninstrument_is_served(flask: Flask) -> None:
    """Its body is taken to its end; another is let pass, and Flask is as it was."""
    before = Flask.__call__
    with pipeline() as observed:
        assert Flask.__call__ is not before
        body: Any = iter(flask(environ(), lambda *_: None))
        first = next(body)
        observed.instrumentor.uninstrument()
        assert Flask.__call__ is before
        assert b"".join([first, *body])
        body.close()
    assert take(flask, environ("/whole"))


@pytest.mark.swallows("a mistake of ours")
def test_whatever_telemetry_meets_the_listener_is_served(
    observed: Pipeline, flask: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note that fails costs itself."""

    def fails(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    expected = len(take(flask, environ("/whole")))
    for name in ("_started", "_sent", "_answered", "_begun"):
        with monkeypatch.context() as patched:
            patched.setattr(WsgiExchange, name, fails)
            assert len(take(flask, environ("/whole"))) == expected
    monkeypatch.setattr("vibevoice_otel.web.flask.scope_of", fails)
    assert len(take(flask, environ("/whole"))) == expected


def test_without_a_model_nothing_is_looked_at() -> None:
    """A program that has loaded no model's code leaves no candidate, but on a route that the operator named."""

    def never() -> Recorder:
        raise AssertionError("the recorder is built")

    for routes, looked in ((DEFAULT_ROUTES, None), (("/v1/audio/speech",), WsgiExchange)):
        recorder = DeferredRecorder(Settings(routes=routes), never)
        exchange = FlaskAdapter(recorder)._exchange(environ())
        assert type(exchange) is (looked or type(None))
        if exchange is not None:
            exchange.candidate.end()
