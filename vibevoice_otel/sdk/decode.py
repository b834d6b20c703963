"""Encoded spans back to span objects, for the day on which an exporter no longer takes bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState


def spans(payload: bytes, resource: Resource, scope: InstrumentationScope) -> Iterator[ReadableSpan]:
    """The spans of an ExportTraceServiceRequest that this package wrote;
    ``resource`` and ``scope`` are the tracer's.
    """
    return (
        _span(span, resource, scope)
        for of_resource in ExportTraceServiceRequest.FromString(payload).resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    )


def _span(span: Any, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    trace_id = int.from_bytes(span.trace_id, "big")
    state = TraceState.from_header([span.trace_state]) if span.trace_state else None
    flags = TraceFlags(TraceFlags.SAMPLED)  # what is not sampled is never encoded

    def context(span_id: bytes) -> SpanContext:
        return SpanContext(trace_id, int.from_bytes(span_id, "big"), False, flags, state)

    return ReadableSpan(
        name=span.name,
        context=context(span.span_id),
        parent=context(span.parent_span_id) if span.parent_span_id else None,
        resource=resource,
        attributes={each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes},
        kind=SpanKind.INTERNAL,
        status=Status(StatusCode(span.status.code), span.status.message or None),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano,
        instrumentation_scope=scope,
    )
