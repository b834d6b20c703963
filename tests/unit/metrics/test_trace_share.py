"""Exemplars are offered of those traces alone that a gateway behind the service is sure to keep."""

from __future__ import annotations

import dataclasses
import random
from time import time_ns

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.support.builders import assembly, request
from tests.support.metrics import by_name, points
from vibevoice_otel import semconv
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.sampling.share import in_share
from vibevoice_otel.sdk.histograms import FastMetrics
from vibevoice_otel.semconv import Status

SHARE, SLO = 0.25, 0.45


def trace_id(inside: bool) -> int:
    source = random.Random(1)
    return next(each for each in iter(lambda: source.getrandbits(128), 0) if in_share(each, SHARE) is inside)


def finished(trace: int, status: Status = Status.SUCCESS, latency: float | None = None, underruns: int = 0) -> Batch:
    batch = assembly(request()).finish(end=60_000_000)
    root = batch.operation(semconv.SYNTHESIZE)
    assert root is not None
    if latency is not None:
        root.attributes[semconv.FIRST_AUDIO_LATENCY.key] = latency
    root.attributes[semconv.UNDERRUNS.key] = underruns
    return dataclasses.replace(batch, trace_id=trace, status=status)


def exemplar_traces(*batches: Batch, share: float = SHARE) -> set[int]:
    """Trace ids of all exemplars that histograms gave after these batches."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    derive = FromSpans(Instruments(provider, "0", Limits(2000, 50_000)), ("0", "1"), SLO, share)
    for batch in batches:
        derive.consume(batch)
    metrics = by_name(reader)
    provider.shutdown()
    counted = metrics.get(semconv.FIRST_AUDIO.name, [])
    assert sum(point.count for point in counted) == sum(
        batch.final for batch in batches
    )  # whatever is sampled, counts are complete
    return {exemplar.trace_id for points in metrics.values() for point in points for exemplar in point.exemplars}


@pytest.mark.parametrize(
    ("why", "end"),
    [
        ("an error", {"status": Status.ERROR}),
        ("a timeout", {"status": Status.TIMEOUT}),
        ("a slow first audio", {"latency": SLO + 0.001}),
        ("an underrun", {"underruns": 1}),
    ],
)
def test_what_the_gateway_always_keeps_has_exemplars(why: str, end: dict[str, object]) -> None:
    """Outside the share, a request worth a look still has its exemplars."""
    outside = trace_id(inside=False)
    assert exemplar_traces(finished(outside, **end)) == {outside}, why  # type: ignore[arg-type]


def test_an_ordinary_request_has_exemplars_within_the_share_alone() -> None:
    """A trace that the gateway drops is named by no exemplar; counts are complete all the same."""
    inside, outside = trace_id(inside=True), trace_id(inside=False)
    assert exemplar_traces(finished(inside, latency=SLO), finished(outside, latency=SLO)) == {inside}


def test_a_drained_stream_has_exemplars_to_its_end() -> None:
    """A long stream outside the share is kept for being long, so the exemplars of its last part are offered too."""
    outside = trace_id(inside=False)
    first = dataclasses.replace(finished(outside), final=False, status=None, operations=[])
    assert exemplar_traces(first, finished(outside, latency=0.1)) == {outside}
    assert exemplar_traces(finished(outside, latency=0.1)) == set()


def test_an_operation_outside_any_request_is_no_long_stream() -> None:
    """A model that loads at start-up is a trace of its own, kept by its share alone."""
    inside, outside = trace_id(inside=True), trace_id(inside=False)
    load = finished(outside).operation(semconv.VOICE_LOAD)
    assert load is not None
    alone = {"final": False, "status": None, "operations": [load], "blocks": []}
    batches = [dataclasses.replace(finished(each), trace_id=each, **alone) for each in (outside, inside)]  # type: ignore[arg-type]
    assert exemplar_traces(*batches) == {inside}


def test_without_a_gateway_every_sampled_trace_has_exemplars() -> None:
    """The default share is 1."""
    outside = trace_id(inside=False)
    assert exemplar_traces(finished(outside, latency=0.1), share=1.0) == {outside}


def test_a_measurement_without_a_span_never_takes_the_thread_s_own() -> None:
    """The recorder's thread may live in the context of the request that started it; no exemplar may name that one's
    span.
    """
    outside, own = trace_id(inside=False), 0xABCD
    around = trace.set_span_in_context(trace.NonRecordingSpan(trace.SpanContext(own, 1, False, trace.TraceFlags(1))))
    token = context.attach(around)
    try:
        assert exemplar_traces(finished(outside, latency=0.1)) == set()
        assert exemplar_traces(finished(outside, latency=0.1), share=1.0) == {outside}
    finally:
        context.detach(token)


def test_an_exemplar_has_the_time_of_its_recording_with_a_trace_or_without() -> None:
    """However long it waits for the collection, and where the operator wants exemplars of all values, beside traced
    ones of the series too.

    Not of the measurement: of a long request that may lie before an exemplar told already, and Prometheus refuses those
    that go back.
    """
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], exemplar_filter=AlwaysOnExemplarFilter(), shutdown_on_exit=False)
    instruments = Instruments(provider, "0", Limits(2000, 50_000), FastMetrics())
    instruments.observe(semconv.ACTIVE, list)
    derive = FromSpans(instruments, ("0", "1"), SLO)
    derive.consume(finished(1))
    reader.get_metrics_data()  # the series exist
    unsampled = dataclasses.replace(finished(2), sampled=False)
    derive.consume(finished(1))
    before = time_ns()
    derive.consume(unsampled)
    after = time_ns()
    first = [e for p in points(reader, semconv.FIRST_AUDIO.name) for e in p.exemplars]
    provider.shutdown()
    assert [before <= e.time_unix_nano <= after for e in first] == [True]
