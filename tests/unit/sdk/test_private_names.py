"""Each private name of the SDK that this package reads, taken away in turn: every span and every count arrives all the
same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.exporter.http.transport._requests import RequestsHTTPTransport
from opentelemetry.exporter.otlp.common.http import _OTLPHTTPClient
from opentelemetry.exporter.otlp.proto.grpc.exporter import OTLPExporterMixin
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics._internal import aggregation, instrument, measurement_consumer
from opentelemetry.sdk.metrics._internal import metric_reader_storage as reader_storage
from opentelemetry.sdk.metrics._internal import view as views
from opentelemetry.sdk.metrics._internal._view_instrument_match import _ViewInstrumentMatch
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.support.builders import bounds, finish, request
from tests.support.metrics import by_name
from tools.otlp import Receiver
from tools.otlp_grpc import GrpcReceiver
from vibevoice_otel import semconv
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.sdk import exporters, histograms, spans
from vibevoice_otel.sdk.capability import Capability
from vibevoice_otel.sdk.emitter import SpanEmitter
from vibevoice_otel.sdk.histograms import FastMetrics
from vibevoice_otel.sdk.span_bytes import FastSpans

CAPABILITIES: list[tuple[Any, str]] = [
    (spans, "CHOSEN_IDS"),
    (exporters, "HTTP_BYTES"),
    (exporters, "GRPC_BYTES"),
    (histograms, "AGGREGATIONS"),
]


def _ours() -> bool:
    """Whether the code that reads the name (two frames up) is this package's."""
    return str(sys._getframe(2).f_globals.get("__name__", "")).startswith("vibevoice_otel.")


class _ForUs:
    """A class attribute that the SDK's own code finds as it was, and this package's code finds as ``broken`` says."""

    def __init__(self, name: str, original: object, broken: Callable[[], object]) -> None:
        self.name, self.original, self.broken = name, original, broken

    def __get__(self, instance: Any, owner: type) -> object:
        if _ours():
            return self.broken()
        if instance is not None and self.name in vars(instance):
            return vars(instance)[self.name]
        get = getattr(self.original, "__get__", None)
        if self.original is None:
            raise AttributeError(self.name)
        return get(instance, owner) if get is not None else self.original

    def __set__(self, instance: Any, value: object) -> None:
        vars(instance)[self.name] = value


def gone() -> object:
    raise AttributeError("renamed")


def raising() -> object:
    def anything(*_: object, **__: object) -> None:
        raise RuntimeError("not as it was")

    return anything


def other_signature() -> object:
    def anything(*, needed: object) -> None:
        raise AssertionError(needed)

    return anything


KINDS: dict[str, Callable[[], object]] = {"gone": gone, "raising": raising, "signature": other_signature}


class _Module(ModuleType):
    """A module as this package sees it, with one name broken."""

    def __init__(self, real: ModuleType, name: str, broken: Callable[[], object]) -> None:
        super().__init__(real.__name__)
        self.__dict__.update({key: value for key, value in vars(real).items() if key != name})
        self._broken = name, broken

    def __getattr__(self, name: str) -> Any:
        if name == self._broken[0]:
            return self._broken[1]()
        raise AttributeError(name)


def _break(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, broken: Callable[[], object]) -> None:
    if isinstance(owner, str):  # "module.alias": a module that this package reads names of
        module, alias = owner.rsplit(".", 1)
        monkeypatch.setattr(
            sys.modules[module], alias, _Module(getattr(sys.modules[module], alias), name, broken), raising=True
        )
        return
    original = next((vars(each)[name] for each in owner.__mro__ if name in vars(each)), None)
    if original is not None and hasattr(original, "__set__") and not hasattr(original, "fget"):  # a slot
        pytest.skip("a slot cannot be hidden from one reader")
    monkeypatch.setattr(owner, name, _ForUs(name, original, broken), raising=False)


AGGREGATION = aggregation._ExplicitBucketHistogramAggregation
SUM = aggregation._SumAggregation
STORAGE = reader_storage.MetricReaderStorage
CONSUMER = measurement_consumer.SynchronousMeasurementConsumer
BATCH = type(BatchSpanProcessor(HttpExporter("http://127.0.0.1:9/v1/traces"))._batch_processor)
#: (what reads it, where it is, the name): the whole list of what this package takes from the SDK's insides for spans
#: and metrics.
NAMES: list[tuple[Any, str]] = [
    ("vibevoice_otel.sdk.spans.sdk_trace", "_Span"),
    (sdk_trace.Tracer, "_span_limits"),
    (sdk_trace.Tracer, "_instrumentation_scope"),
    (sdk_trace.SynchronousMultiSpanProcessor, "_span_processors"),
    (BatchSpanProcessor, "_batch_processor"),
    (BATCH, "_schedule_delay"),
    (HttpExporter, "_endpoint"),
    (HttpExporter, "_max_request_size"),
    (HttpExporter, "_client"),
    (_OTLPHTTPClient, "_transport"),
    (_OTLPHTTPClient, "export"),
    (RequestsHTTPTransport, "_session"),
    (OTLPExporterMixin, "_endpoint"),
    (OTLPExporterMixin, "_initialize_channel_and_stub"),
    (OTLPExporterMixin, "_export"),
    (CONSUMER, "_reader_storages"),
    (CONSUMER, "_sdk_config"),
    (instrument._Histogram, "_measurement_consumer"),
    (instrument._Histogram, "_is_enabled"),
    (STORAGE, "_get_or_init_view_instrument_match"),
    (_ViewInstrumentMatch, "_aggregation"),
    (_ViewInstrumentMatch, "_lock"),
    (_ViewInstrumentMatch, "_attributes_aggregation"),
    (_ViewInstrumentMatch, "_view"),
    (views.View, "_attribute_keys"),
    *((AGGREGATION, name) for name in ("_attributes", "_lock", "_value", "_sum", "_min", "_max", "_boundaries")),
    *((AGGREGATION, name) for name in ("_record_min_max", "_reservoir", "_get_empty_bucket_counts")),
    (SUM, "_value"),
    ("vibevoice_otel.sdk.histograms.sdk", "_ExplicitBucketHistogramAggregation"),
    ("vibevoice_otel.sdk.histograms.sdk", "_SumAggregation"),
    ("vibevoice_otel.sdk.histograms.sdk", "_DropAggregation"),
    ("vibevoice_otel.sdk.histograms.sdk_instruments", "_Histogram"),
]


def _name(case: object) -> str:
    if isinstance(case, tuple):
        owner, name = case
        return f"{owner if isinstance(owner, str) else owner.__name__}.{name}"
    return str(case)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every capability is tried anew, as at the start of a process."""
    for module, name in CAPABILITIES:
        known: Capability = getattr(module, name)
        monkeypatch.setattr(module, name, Capability(known.name, known._probe, known._otherwise))


def spoken(receiver: Receiver | GrpcReceiver, meters: InMemoryMetricReader) -> tuple[int, dict[str, object]]:
    """One request through the product's own path: how many spans arrive, and what each metric counts."""
    exporter = (
        HttpExporter(f"{receiver.endpoint}/v1/traces")
        if isinstance(receiver, Receiver)
        else GrpcExporter(f"http://{receiver.endpoint}")
    )
    provider = TracerProvider(shutdown_on_exit=False, resource=Resource({"service.name": "speech"}))
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=60_000))
    meter_provider = MeterProvider([meters], shutdown_on_exit=False)
    instruments = Instruments(meter_provider, "1", Limits(100, 10_000), FastMetrics())
    lost: list[object] = []
    tracer = provider.get_tracer(semconv.SCOPE, "1", semconv.SCHEMA_URL)
    emitter = SpanEmitter(tracer, FastSpans(tracer, lambda *drop: lost.append(drop)))
    derive = FromSpans(instruments, bounds().step_labels(), 0.45, 1.0)
    for _ in range(3):
        batch = finish(request())
        root = emitter.open(batch.request, 0, None).get_span_context()
        batch.trace_id, batch.root_id, batch.sampled = root.trace_id, root.span_id, True
        derive.consume(batch)
        emitter.consume(batch)
    provider.force_flush()
    provider.shutdown()
    collected = by_name(meters)
    meter_provider.shutdown()
    counted = {
        name: sorted(
            (
                str(sorted((p.attributes or {}).items())),
                getattr(p, "count", 0),
                getattr(p, "sum", getattr(p, "value", 0)),
            )
            for p in points
        )
        for name, points in collected.items()
    }
    assert lost == []
    return len(receiver.spans()), counted


@pytest.mark.swallows("unsupported opentelemetry-sdk internals")
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("case", NAMES, ids=_name)
def test_a_release_that_moves_it_loses_nothing(
    case: tuple[Any, str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed, of another signature, or raising: the public API serves, span for span and count for count."""
    receiver = GrpcReceiver if case[0] is OTLPExporterMixin else Receiver
    with receiver() as plain:
        wanted = spoken(plain, InMemoryMetricReader())
    _break(monkeypatch, *case, KINDS[kind])
    for module, name in CAPABILITIES:
        getattr(module, name)._works = None
    with receiver() as broken:
        assert spoken(broken, InMemoryMetricReader()) == wanted


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("protocol", [Receiver, GrpcReceiver])
def test_an_exporter_that_breaks_while_it_runs_loses_nothing(
    protocol: type[Receiver | GrpcReceiver], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was encoded already is handed over as span objects, and so is everything after it; one warning says so."""
    with protocol() as plain:
        wanted = spoken(plain, InMemoryMetricReader())
    sender = exporters._Http if protocol is Receiver else exporters._Grpc
    assert (exporters.HTTP_BYTES if protocol is Receiver else exporters.GRPC_BYTES).works()
    monkeypatch.setattr(sender, "send", raising())
    with protocol() as broken:
        assert spoken(broken, InMemoryMetricReader()) == wanted
        assert sorted(s.name for s in broken.spans()) == sorted(s.name for s in plain.spans())
    assert len([r for r in caplog.records if "takes no bytes any more" in r.getMessage()]) == 1
