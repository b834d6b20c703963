"""Providers whose exporters do everything but send: they encode to OTLP bytes, count them, and let them go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from vibevoice_otel import semconv, wiring
from vibevoice_otel.metrics import live
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.recording.checks.judge import Judge
from vibevoice_otel.recording.labels import Bounds
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.sdk import fast
from vibevoice_otel.settings import Settings

RESOURCE = Resource.create(
    {"service.name": "vibevoice", "service.version": "0", "deployment.environment.name": "benchmark"}
)


class Sink(requests.Session):
    """Takes every request and answers 200."""

    def __init__(self) -> None:
        super().__init__()
        self.received = 0
        self.requests = 0
        self.keep: list[bytes] | None = None

    def request(self, *_: Any, data: Any = None, **__: Any) -> requests.Response:  # type: ignore[override]
        self.received += len(data)
        self.requests += 1
        if self.keep is not None:
            self.keep.append(bytes(data))
        response = requests.Response()
        response.status_code, response.reason = 200, "OK"
        return response

    def post(self, url: Any, data: Any = None, json: Any = None, **_: Any) -> requests.Response:
        del json
        return self.request("POST", url, data=data)


@dataclass
class Observed:
    """A recorder wired as the instrumentor wires it, and what hears it."""

    recorder: Recorder
    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    reader: InMemoryMetricReader
    sink: Sink
    dropped: dict[str, int]
    path: fast.FastPath | None

    def flush(self) -> None:
        """Everything that has ended becomes bytes, and a reader collects the metrics."""
        self.recorder.flush(60)
        self.tracer_provider.force_flush(60_000)
        self.reader.get_metrics_data()

    def shutdown(self) -> None:
        self.recorder.shutdown()
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def providers(*, traced: bool = True) -> tuple[TracerProvider, MeterProvider, InMemoryMetricReader, Sink]:
    """The batch processor's queue is large enough to lose nothing: the same work for everyone."""
    sink = Sink()
    tracer_provider = TracerProvider(
        sampler=ALWAYS_ON if traced else ALWAYS_OFF, resource=RESOURCE, shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint="http://sink.invalid/v1/traces", session=sink)
    tracer_provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=1_000_000))
    reader = InMemoryMetricReader()
    return tracer_provider, MeterProvider([reader], shutdown_on_exit=False, resource=RESOURCE), reader, sink


def observed(*, traced: bool = True, fast_path: bool = True, settings: Settings | None = None) -> Observed:
    tracer_provider, meter_provider, reader, sink = providers(traced=traced)
    chosen = settings or Settings(max_spans_per_second=10_000_000, max_trace_spans=10_000_000)
    dropped: dict[str, int] = {}

    def drop(what: str, reason: str, count: int) -> None:
        dropped[f"{what} {reason}"] = dropped.get(f"{what} {reason}", 0) + count

    tracer = tracer_provider.get_tracer(semconv.SCOPE, "", semconv.SCHEMA_URL)
    path = fast.path(tracer, drop) if fast_path else None
    limits, spans, metrics = Limits(chosen.max_attribute_sets, chosen.max_series), None, None
    if path is not None:
        spans, metrics = path.spans, path.metrics
    instruments = Instruments(meter_provider, "0", limits, metrics)
    derive = FromSpans(instruments, Bounds(chosen).step_labels(), chosen.slo_first_audio)
    recorder = wiring.recorder(chosen, tracer_provider, [Judge(), derive], drop, fast_spans=spans)
    recorder.bounds.learn_voices(["en-Carter_man"])
    live.register(instruments, recorder, live.Running("0", list))
    return Observed(recorder, tracer_provider, meter_provider, reader, sink, dropped, path)
