"""VibeVoiceInstrumentor in a program that has its own SDK."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.metrics import by_name
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.service.engine import StreamingTTSService
from vibevoice_otel.service.settings import ServiceSettings


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def instrumented(exporter: InMemorySpanExporter, reader: InMemoryMetricReader) -> Iterator[VibeVoiceInstrumentor]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = VibeVoiceInstrumentor()
    instrumentor.instrument(tracer_provider=provider, meter_provider=MeterProvider([reader]), skip_dep_check=True)
    yield instrumentor
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()


@pytest.fixture(scope="module")
def speech() -> StreamingTTSService:
    return StreamingTTSService(ServiceSettings())


def _functions() -> dict[str, object]:
    import diffusers
    from starlette.applications import Starlette
    from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor as Guidance
    from transformers.models.vibevoice import modeling_vibevoice as modeling
    from transformers.models.vibevoice.generation_vibevoice import VibeVoiceGenerationMixin as Mixin
    from transformers.models.vibevoice_acoustic_tokenizer import modeling_vibevoice_acoustic_tokenizer as tokenizer

    from vibevoice_otel.service import engine, streamer

    owners = [
        diffusers.DPMSolverMultistepScheduler, Starlette, Guidance, Mixin, modeling.VibeVoiceForConditionalGeneration,
        modeling.VibeVoiceMultiModalProjector, tokenizer.VibeVoiceAcousticTokenizerEncoderModel,
        engine.StreamingTTSService, streamer.AudioStreamer, streamer.AudioSampleIterator,
    ]  # fmt: skip
    return {
        f"{owner.__name__}.{name}": value for owner in owners for name, value in vars(owner).items() if callable(value)
    }


def test_uninstrument_restores_every_function(speech: StreamingTTSService) -> None:
    """After uninstrumenting, each class holds the very objects that it held before."""
    before = _functions()
    instrumentor = VibeVoiceInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider(), meter_provider=MeterProvider(), skip_dep_check=True)
    list(speech.stream("hooks that come late too"))
    during = _functions()
    changed = [name for name in during if during[name] is not before.get(name)]
    assert len(changed) > 15
    instrumentor.uninstrument()
    assert _functions() == before


def test_own_providers_get_trace_and_metrics(
    instrumented: VibeVoiceInstrumentor,
    exporter: InMemorySpanExporter,
    reader: InMemoryMetricReader,
    speech: StreamingTTSService,
) -> None:
    """In a program without a web server the call of stream() is the request: a trace and metrics through the given
    providers.
    """
    chunks = list(speech.stream("Hello there.", cfg_scale=2.0, inference_steps=3, voice_key="en-Emma_woman"))
    assert instrumented.recorder is not None
    assert instrumented.recorder.flush(60.0)
    spans = exporter.get_finished_spans()
    assert sum(s.name == "vibevoice.diffusion.step" for s in spans) == 3 * len(chunks)
    (root,) = [s for s in spans if s.name == "vibevoice.synthesize"]
    assert root.attributes is not None
    assert root.attributes["vibevoice.status"] == "success"
    assert root.parent is None
    assert instrumented.recorder.timelines == []
    assert {"vibevoice.streaming.requests", "vibevoice.inference.duration"} <= by_name(reader).keys()


def test_instrumenting_twice_is_harmless(
    instrumented: VibeVoiceInstrumentor, exporter: InMemorySpanExporter, speech: StreamingTTSService
) -> None:
    """The second call changes nothing: each step is still one span."""
    VibeVoiceInstrumentor().instrument(skip_dep_check=True)
    chunks = list(speech.stream("Hello there.", inference_steps=2))
    assert instrumented.recorder is not None
    assert instrumented.recorder.flush(60.0)
    assert sum(s.name == "vibevoice.diffusion.step" for s in exporter.get_finished_spans()) == 2 * len(chunks)


def test_two_streams_that_are_read_in_turn_are_two_requests(
    instrumented: VibeVoiceInstrumentor, exporter: InMemorySpanExporter, speech: StreamingTTSService
) -> None:
    """A program that interleaves streams on one thread, or leaves one open: each is a request of its own, with its own
    text's length.
    """
    first, second = speech.stream("one", inference_steps=2), speech.stream("the second one", inference_steps=2)
    next(first)
    next(second)
    third = speech.stream("three", inference_steps=2)
    next(third)
    recorder = instrumented.recorder
    assert recorder is not None
    assert len(recorder.timelines) == 3
    for stream in (second, first):
        list(stream)
    third.close()
    assert recorder.flush(60.0)
    roots = [span for span in exporter.get_finished_spans() if span.name == "vibevoice.synthesize"]
    assert sorted(span.attributes["vibevoice.text.length"] for span in roots) == [3, 5, 14]  # type: ignore[index]
    assert recorder.timelines == []
