"""A stand-in for an instrumented service that can do what a real one does only by luck: fail late, be slow, stream for
minutes.

Plain OpenTelemetry SDK and the names of semconv.py; it sends what it is told, when it is told.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanKind, Status, StatusCode

from vibevoice_otel import semconv

MS = 1_000_000


class _Ids(RandomIdGenerator):
    next_trace: int | None = None

    def generate_trace_id(self) -> int:
        chosen, self.next_trace = self.next_trace, None
        return chosen or super().generate_trace_id()


def resource(service: str = "vibevoice", environment: str = "test") -> Resource:
    return Resource(
        {
            "service.name": service,
            "service.instance.id": secrets.token_hex(4),
            "deployment.environment.name": environment,
        }
    )


@dataclass
class Request:
    """One speech request under way; ``take`` hands over the spans that ended since the last time."""

    emitter: Emitter
    voice: str
    server: trace.Span
    root: trace.Span
    generate: trace.Span
    clock: int
    frames: int = 0
    attributes: dict[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def trace_id(self) -> str:
        return format(self.root.get_span_context().trace_id, "032x")

    def frame(self, steps: int = 5, partial: bool = False) -> None:
        """One frame with its steps and decode, 130 ms after the one before."""
        marks = {semconv.STREAM_PARTIAL.key: True} if partial else {}
        tracer, start = self.emitter.tracer, self.clock
        frame = tracer.start_span(
            semconv.FRAME.name,
            trace.set_span_in_context(self.generate),
            start_time=start,
            attributes={semconv.FRAME_INDEX.key: self.frames, **marks},
        )
        inside = trace.set_span_in_context(frame)
        for index in range(steps):
            step = tracer.start_span(
                semconv.STEP.name,
                inside,
                start_time=start + index * 4 * MS,
                attributes={semconv.STEP_INDEX.key: index, **marks},
            )
            step.end(start + (index + 1) * 4 * MS)
        decode = tracer.start_span(semconv.DECODE.name, inside, start_time=start + steps * 4 * MS, attributes=marks)
        decode.end(start + (steps * 4 + 10) * MS)
        self.clock = start + 130 * MS
        frame.end(self.clock)
        self.frames += 1

    def finish(self, first_audio: float | None = 0.2, underruns: int = 0, error: str | None = None) -> None:
        """End the request's own spans."""
        self.generate.end(self.clock)
        self.root.set_attributes(
            {semconv.VOICE.key: self.voice, semconv.FRAMES.key: self.frames, semconv.UNDERRUNS.key: underruns}
        )
        if first_audio is not None:
            self.root.set_attribute(semconv.FIRST_AUDIO_LATENCY.key, first_audio)
        if error is not None:
            self.root.set_attribute(semconv.ERROR_TYPE.key, error)
            self.root.set_status(Status(StatusCode.ERROR, error))
        self.root.end(self.clock)
        self.server.end(self.clock)

    def take(self) -> list[ReadableSpan]:
        return self.emitter.take()


class Emitter:
    """Makes requests and exports their spans to host:port by OTLP/gRPC."""

    def __init__(self, endpoint: str, **exporter: object) -> None:
        self._ids, self._memory = _Ids(), InMemorySpanExporter()
        self._provider = TracerProvider(resource=resource(), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.tracer = self._provider.get_tracer(semconv.SCOPE)
        self._exporter = OTLPSpanExporter(endpoint=endpoint, **{"insecure": True, "timeout": 60, **exporter})  # type: ignore[arg-type]

    def request(
        self,
        voice: str = "en-Carter_man",
        trace_id: int | None = None,
        server: dict[str, str | int | float] | None = None,
    ) -> Request:
        """Open a request: SERVER, vibevoice.synthesize and vibevoice.generate, begun now."""
        self._ids.next_trace = trace_id
        now = time.time_ns()
        outer = self.tracer.start_span("/stream", kind=SpanKind.SERVER, start_time=now, attributes=server)
        root = self.tracer.start_span(semconv.SYNTHESIZE.name, trace.set_span_in_context(outer), start_time=now + MS)
        generate = self.tracer.start_span(
            semconv.GENERATE.name, trace.set_span_in_context(root), start_time=now + 5 * MS
        )
        return Request(self, voice, outer, root, generate, now + 10 * MS)

    def whole(self, frames: int = 2, trace_id: int | None = None, **end: object) -> Request:
        """A request from its beginning to its end, not yet exported."""
        request = self.request(trace_id=trace_id)
        for _ in range(frames):
            request.frame()
        request.finish(**end)  # type: ignore[arg-type]
        return request

    def take(self) -> list[ReadableSpan]:
        spans = list(self._memory.get_finished_spans())
        self._memory.clear()
        return spans

    def send(self, spans: Iterable[ReadableSpan]) -> bool:
        """Export; whether the receiver acknowledged."""
        return self._exporter.export(tuple(spans)) is SpanExportResult.SUCCESS

    def flush(self) -> bool:
        """Export all that ended."""
        return self.send(self.take())

    def close(self) -> None:
        self._exporter.shutdown()
        self._provider.shutdown()


class Meters:
    """Records one value in every instrument of semconv.METRICS, exemplars naming ``span``, and exports on request."""

    def __init__(self, exporter: object, service: str = "vibevoice") -> None:
        self._reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)  # type: ignore[arg-type]
        self._provider = MeterProvider([self._reader], resource=resource(service), shutdown_on_exit=False)
        self._meter = self._provider.get_meter(semconv.SCOPE)
        self._instruments = {metric.name: self._make(metric) for metric in semconv.METRICS}

    def _make(self, metric: semconv.Metric) -> object:
        create = {"counter": "create_counter", "updowncounter": "create_up_down_counter", "gauge": "create_gauge"}
        if metric.instrument == "histogram":
            return self._meter.create_histogram(
                metric.name, metric.unit, metric.brief, explicit_bucket_boundaries_advisory=metric.buckets
            )
        return getattr(self._meter, create[metric.instrument])(metric.name, metric.unit, metric.brief)

    @staticmethod
    def labels(metric: semconv.Metric) -> dict[str, str]:
        """One example value of each of the metric's attributes, as text."""
        return {attribute.key: str(attribute.examples[0]) for attribute in metric.attributes}

    def record(self, span: trace.SpanContext | None = None, value: float = 1.0) -> None:
        context = trace.set_span_in_context(trace.NonRecordingSpan(span)) if span else None
        for metric in semconv.METRICS:
            instrument = self._instruments[metric.name]
            if metric.instrument == "histogram":
                instrument.record(value, self.labels(metric), context)  # type: ignore[attr-defined]
            elif metric.instrument == "gauge":
                instrument.set(value, self.labels(metric))  # type: ignore[attr-defined]
            else:
                instrument.add(value, self.labels(metric), context)  # type: ignore[attr-defined]

    def flush(self) -> bool:
        return self._provider.force_flush()

    def close(self) -> None:
        self._provider.shutdown()


def metrics_to(endpoint: str) -> OTLPMetricExporter:
    """OTLP/gRPC metrics to host:port."""
    return OTLPMetricExporter(endpoint=endpoint, insecure=True, timeout=60)
