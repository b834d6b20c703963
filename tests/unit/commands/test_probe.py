"""The probe tells every way a request can end, and marks its requests so that they count in no objective."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from websockets.sync.server import Request, Response, ServerConnection, serve

from tests.support.http_speech import EVENT, MP3, SECOND, WAV, http_service
from tests.support.metrics import by_name
from vibevoice_otel.commands import clients, probe
from vibevoice_otel.semconv import Status

seen: list[Request] = []


def speaks(socket: ServerConnection) -> None:
    socket.send('{"event": "backend_request_received"}')
    socket.send(b"")
    time.sleep(0.05)
    socket.send(SECOND)
    socket.send(SECOND)


def busy(socket: ServerConnection) -> None:
    socket.close(1013, "busy")


def says_nothing(socket: ServerConnection) -> None:
    socket.send('{"event": "backend_error"}')


def fails(socket: ServerConnection) -> None:
    socket.send(SECOND)
    socket.close(1011, "boom")


def pauses(socket: ServerConnection) -> None:
    socket.send(SECOND[:9600])  # 0.2 s
    time.sleep(2.0)
    socket.send(SECOND)


def hangs(socket: ServerConnection) -> None:
    socket.send(SECOND)
    for _ in socket:  # until the client has left
        pass


def breaks(socket: ServerConnection) -> None:
    socket.send(SECOND)
    socket.socket.close()


@contextmanager
def service(handler: Callable[[ServerConnection], None]) -> Iterator[str]:
    def remember(_socket: ServerConnection, request: Request) -> Response | None:
        seen.append(request)
        return None

    with serve(handler, "127.0.0.1", 0, process_request=remember) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/stream?voice=en-Emma_woman"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("handler", "status", "error", "heard"),
    [
        (speaks, Status.SUCCESS, None, 2.0),
        (busy, Status.REJECTED, "busy", 0.0),
        (says_nothing, Status.ERROR, "no_audio", 0.0),
        (fails, Status.ERROR, "websocket_close_1011", 1.0),
        (hangs, Status.TIMEOUT, "TimeoutError", 1.0),
        (breaks, Status.ERROR, "client_disconnect", 1.0),
    ],
)
def test_every_end_has_its_status(
    handler: Callable[[ServerConnection], None], status: Status, error: str | None, heard: float
) -> None:
    """Status, error and the audio that came before it."""
    with service(handler) as url:
        outcome = probe.Probe(url, timeout=3.0 if status is Status.TIMEOUT else 30.0).once()
    assert (outcome.status, outcome.error_type, outcome.audio_seconds) == (status, error, heard)
    assert (outcome.first_audio is not None) is bool(heard)


def test_the_worst_gap_is_what_the_client_heard() -> None:
    """1.8 s of silence between two pieces of audio, give or take what a busy machine takes to hand each over, and no
    more than the whole request without the first piece's own 0.2 s; no audio, no gap.
    """
    with service(pauses) as url:
        began = time.monotonic()
        outcome = probe.Probe(url, timeout=30.0).once()
        took = time.monotonic() - began
    assert outcome.worst_gap is not None
    assert 1.0 < outcome.worst_gap <= took - 0.2
    assert f"worst gap {outcome.worst_gap:.3f} s" in str(outcome)
    with service(says_nothing) as url:
        assert probe.Probe(url, timeout=30.0).once().worst_gap is None


def test_a_service_that_is_gone_is_an_error() -> None:
    """What the service itself cannot tell."""
    outcome = probe.Probe("ws://127.0.0.1:9/stream", timeout=1.0).once()
    assert (outcome.status, outcome.error_type) == (Status.ERROR, "ConnectionRefusedError")


def test_its_requests_say_what_they_are_and_are_measured() -> None:
    """Marked in W3C baggage, child of a CLIENT span, counted and timed from outside, every status from zero."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(shutdown_on_exit=False), MeterProvider([reader], shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    with service(speaks) as url:
        outcome = probe.Probe(url, headers={"X-Key": "k"}, tracer_provider=tracers, meter_provider=meters).once()
        target = url.split("/")[2]
    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind.name) == ("vibevoice.probe", "CLIENT")
    assert span.attributes == {
        "vibevoice.voice.requested": "en-Emma_woman",
        "vibevoice.status": "success",
        "vibevoice.first_audio.latency": outcome.first_audio,
        "vibevoice.audio.duration": 2.0,
        "vibevoice.playback.gap": 0.0,
        "vibevoice.websocket.close_code": 1000,
        "vibevoice.synthetic": True,
    }
    headers = seen[-1].headers
    assert "vibevoice.synthetic=true" in headers["baggage"]
    assert headers["traceparent"].split("-")[1:3] == [
        format(span.context.trace_id, "032x"),
        format(span.context.span_id, "016x"),
    ]
    assert headers["X-Key"] == "k"
    assert "voice=en-Emma_woman" in seen[-1].path
    points = by_name(reader)
    assert {p.attributes["status"]: p.value for p in points["vibevoice.probe.requests"]} == {
        s.value: int(s is Status.SUCCESS) for s in Status
    }
    assert {p.attributes["target"] for p in points["vibevoice.probe.requests"]} == {target}
    (latency,) = points["vibevoice.probe.first_audio.latency"]
    assert (latency.count, latency.sum) == (1, outcome.first_audio)
    assert outcome.first_audio is not None
    assert outcome.first_audio >= 0.05
    (gap,) = points["vibevoice.probe.playback.gap"]
    assert (gap.count, gap.sum) == (1, 0.0)
    tracers.shutdown()
    meters.shutdown()


def test_once_says_by_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """0 when audio came, 1 when not, so that cron and health checks can use it."""
    with service(speaks) as url:
        assert probe.main([url, "--once"]) == 0
    assert "success: first audio after" in capsys.readouterr().out
    assert probe.main(["ws://127.0.0.1:9", "--once", "--timeout", "1"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ftp://localhost:8000"], "is no ws://, wss://, http:// or https:// address"),
        (["ws://localhost:8000", "--every", "0"], "allowed are 1 to 86400 seconds"),
        (["ws://localhost:8000", "--timeout", "nan"], "allowed are 1 to 86400 seconds"),
        (["ws://localhost:8000", "--header", "Authorization"], "a header is NAME: VALUE"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clear error, nothing sent."""
    with pytest.raises(SystemExit):
        probe.main(arguments)
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- HTTP


@pytest.mark.parametrize(
    ("code", "kind", "parts", "ended", "heard"),
    [
        (200, "audio/wav", (WAV, SECOND, SECOND), (Status.SUCCESS, None), 2.0),
        (200, "audio/pcm;rate=12000", (SECOND,), (Status.SUCCESS, None), 2.0),
        (200, "audio/pcm", (SECOND,), (Status.SUCCESS, None), None),
        (200, "audio/mpeg", (MP3, MP3), (Status.SUCCESS, None), None),
        (200, "text/event-stream", (EVENT, b"data: [DONE]\n\n"), (Status.SUCCESS, None), None),
        (200, "application/octet-stream", (WAV + SECOND,), (Status.SUCCESS, None), 1.0),
        (200, "audio/wav", (WAV,), (Status.ERROR, "no_audio"), 0.0),
        (200, "text/html", (b"<p>hello",), (Status.ERROR, "no_audio"), 0.0),
        (200, "audio/wav", (WAV, SECOND, None), (Status.ERROR, "incomplete_response"), 1.0),
        (200, "audio/wav", (WAV, SECOND, 6.0), (Status.TIMEOUT, "TimeoutError"), 1.0),
        (307, "text/plain", (), (Status.ERROR, "http_307"), 0.0),
        (401, "application/json", (b"{}",), (Status.REJECTED, "http_401"), 0.0),
        (404, "application/json", (b"{}",), (Status.REJECTED, "http_404"), 0.0),
        (422, "application/json", (b"{}",), (Status.REJECTED, "http_422"), 0.0),
        (503, "text/plain", (), (Status.REJECTED, "busy"), 0.0),
        (500, "text/plain", (b"oh",), (Status.ERROR, "http_500"), 0.0),
    ],
)
def test_every_answer_over_http_has_its_status(
    code: int, kind: str, parts: tuple[bytes | float | None, ...], ended: tuple[Status, str | None], heard: float | None
) -> None:
    """By the server side's tables of formats and of codes; seconds and gaps are told where the format tells them."""
    with http_service(code, kind, *parts) as (url, _):
        outcome = probe.Probe(url, timeout=3.0 if ended[0] is Status.TIMEOUT else 30.0).once()
    assert (outcome.status, outcome.error_type) == ended
    assert outcome.audio_seconds == heard
    assert (outcome.first_audio is not None) is (heard != 0.0)
    assert (outcome.worst_gap is not None) is bool(heard)
    if ended[0] is not Status.SUCCESS:
        told = "no end within 3 s" if ended[0] is Status.TIMEOUT else f"HTTP {code} ({kind})"
        assert told in str(outcome)


def test_first_audio_over_http_is_the_first_byte_behind_the_header() -> None:
    """The header comes at once, the sound later; the pause in it is the worst gap."""
    with http_service(200, "audio/wav", WAV, 0.2, SECOND[:9600], 2.0, SECOND) as (url, _):
        began = time.monotonic()
        outcome = probe.Probe(url, timeout=30.0).once()
        took = time.monotonic() - began
    assert outcome.first_audio is not None
    assert outcome.first_audio >= 0.2
    assert outcome.worst_gap is not None
    assert 1.0 < outcome.worst_gap <= took - 0.4  # a pause of 2 s after 0.2 s without and 0.2 s with sound


def test_what_a_post_asks_for() -> None:
    """OpenAI's members, the voice only where one is named; a body of the operator's own, into which the text goes as it
    is.
    """
    tracers = TracerProvider(shutdown_on_exit=False)
    with http_service(200, "audio/wav", WAV, SECOND) as (url, asked):
        probe.Probe(url, tracer_provider=tracers, headers={"X-Key": "k"}).once()
        probe.Probe(url, voice="en-Emma_woman").once()
        own = clients.Speech(template='{"say": ["{text}"], "who": "{voice}", "speed": 1}')
        probe.Probe(url, 'A "{voice}".', client=clients.client(url, own), voice="v").once()
    (path, headers, first), (_, _, second), (_, _, third) = asked
    assert path == "/v1/audio/speech"
    assert json.loads(first) == {"model": "tts-1", "input": probe.TEXT, "response_format": "wav"}
    assert json.loads(second)["voice"] == "en-Emma_woman"
    assert json.loads(third) == {"say": ['A "{voice}".'], "who": "v", "speed": 1}
    assert headers["content-type"] == "application/json"
    assert headers["traceparent"].startswith("00-")
    assert headers["baggage"] == "vibevoice.synthetic=true"
    assert headers["X-Key"] == "k"


def test_what_the_service_says_of_itself_stands_beside_it() -> None:
    """Traceresponse and Server-Timing of the answer; what is none of these says nothing."""
    told = {
        "traceresponse": f"00-{'ab' * 16}-{'cd' * 8}-01",
        "server_timing": 'queue;dur=12.5, total;desc="x";dur=30.0',
    }
    with http_service(200, "audio/wav", WAV, SECOND, **told) as (url, _):
        outcome = probe.Probe(url).once()
    assert outcome.told == clients.Told("ab" * 16, (("queue", 0.0125), ("total", 0.03)))
    assert f"the service says queue 0.013 s, total 0.030 s; trace {'ab' * 16}" in str(outcome).replace(
        "0.012 s", "0.013 s"
    )
    wrong = {"traceresponse": "00-zz-1-2", "server_timing": "dur;1, x;dur=1.2.3, y;dur=."}
    with http_service(200, "audio/wav", WAV, SECOND, **wrong) as (url, _):
        assert probe.Probe(url).once().told is None


def test_what_is_no_websocket_says_what_came() -> None:
    """A service that answers the handshake with HTTP is judged by the same table."""
    for code, ended in ((200, (Status.ERROR, "http_200")), (403, (Status.REJECTED, "http_403"))):
        with http_service(code, "text/html") as (url, _):
            address = url.replace("http://", "ws://") + "?voice=v"
            outcome = probe.Probe(address, "secret", timeout=30.0).once()
        assert (outcome.status, outcome.error_type) == ended
        assert f"HTTP {code} (text/html): it " in str(outcome)
        assert "secret" not in str(outcome)


def test_nothing_there_is_said_without_the_text() -> None:
    """The address without its query, in which the text goes."""
    for scheme, error in (("ws", "ConnectionRefusedError"), ("http", "ConnectionRefusedError")):
        outcome = probe.Probe(f"{scheme}://user:key@127.0.0.1:9/speak?voice=v", "secret", timeout=1.0).once()
        assert (outcome.status, outcome.error_type) == (Status.ERROR, error)
        assert str(outcome).endswith(f"{scheme}://127.0.0.1:9/speak cannot be reached")


@pytest.mark.parametrize(
    ("body", "message"),
    [("{", "the body cannot be read"), ("@/no/such/file", "the body cannot be read"), ('{"a": 1}', "with {text} in it"),
     ('["{text}"]', "is a JSON object")],
)  # fmt: skip
def test_a_wrong_body_is_named(body: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is sent."""
    with pytest.raises(SystemExit):
        probe.main(["http://localhost:8000", "--body-template", body])
    assert message in capsys.readouterr().err
