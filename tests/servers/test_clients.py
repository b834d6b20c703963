"""The probe speaks to an HTTP speech server as it is, and its account and the server's are of one request."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.upstream.traces import Trace
from vibevoice_otel import semconv
from vibevoice_otel.commands import clients
from vibevoice_otel.commands.probe import Probe
from vibevoice_otel.semconv import Status

from .test_http import SPEECH, Start


@pytest.mark.serial
@pytest.mark.parametrize("response_format", ["wav", "pcm", "sse"])
def test_the_probe_and_the_server_tell_of_one_request(running: Start, response_format: str) -> None:
    """One trace from the probe's span down, the same seconds of audio, first audio no earlier than the server's, and
    the server's figures beside its own.
    """
    server = running("openai_threads", VIBEVOICE_OTEL_RESPONSE_HEADERS="true")
    spans, tracers = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    url = f"http://127.0.0.1:{server.port}{SPEECH}"
    client = clients.client(url, clients.Speech(response_format=response_format))
    outcome = Probe(url, tracer_provider=tracers, voice="en-Emma_woman", client=client).once()
    assert outcome.status is Status.SUCCESS, outcome
    (span,) = spans.get_finished_spans()
    trace_id = trace.format_trace_id(span.context.trace_id)
    server.sink.wait(lambda: any(each.name == semconv.SYNTHESIZE.name for each in server.sink.spans(trace_id)))
    seen = Trace(server.sink.spans(trace_id))
    assert seen.value(semconv.SYNTHETIC) is True
    assert seen.value(semconv.VOICE) == "en-Emma_woman"
    if response_format == "sse":  # its bytes are base64 and tell no time
        assert (outcome.audio_seconds, outcome.worst_gap) == (None, None)
    else:
        assert outcome.audio_seconds == pytest.approx(seen.value(semconv.AUDIO_DURATION))
        assert outcome.worst_gap is not None
    assert outcome.first_audio is not None
    assert outcome.first_audio >= seen.value(semconv.FIRST_AUDIO_LATENCY) - 0.05
    assert outcome.told is not None
    assert outcome.told.trace_id == trace_id
    assert "total" in dict(outcome.told.parts)
