"""The probe tells every way a request can end, and marks its requests so that they count in no objective."""

from __future__ import annotations

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

from vibevoice_otel import semconv
from vibevoice_otel.commands import probe
from vibevoice_otel.semconv import Status

SECOND = b"\1\0" * semconv.SAMPLE_RATE_HZ
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
    time.sleep(0.45)
    socket.send(SECOND)


def hangs(socket: ServerConnection) -> None:
    socket.send(SECOND)
    time.sleep(3)


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
        outcome = probe.Probe(url, timeout=1.0).once()
    assert (outcome.status, outcome.error_type, outcome.audio_seconds) == (status, error, heard)
    assert (outcome.first_audio is not None) is bool(heard)


def test_the_worst_gap_is_what_the_client_heard() -> None:
    """A quarter of a second of silence between two pieces of audio; no audio, no gap."""
    with service(pauses) as url:
        outcome = probe.Probe(url, timeout=5.0).once()
    assert outcome.worst_gap == pytest.approx(0.25, abs=0.1)
    assert f"worst gap {outcome.worst_gap:.3f} s" in str(outcome)
    with service(says_nothing) as url:
        assert probe.Probe(url, timeout=1.0).once().worst_gap is None


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
    data = reader.get_metrics_data()
    assert data is not None
    points = {m.name: m.data.data_points for m in data.resource_metrics[0].scope_metrics[0].metrics}
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
        (["http://localhost:8000"], "is no ws:// or wss:// address"),
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
