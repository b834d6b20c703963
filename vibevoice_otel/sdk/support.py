"""Checks whether spans can bypass the SDK's span objects and be written as bytes.

Every processor in the provider's chain must be known, that is, the SDK's own BatchSpanProcessor around one of the SDK's
OTLP exporters. Another library's processor may read, change or filter spans, so it gets ordinary ones.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from vibevoice_otel import semconv
from vibevoice_otel.otlp import wire
from vibevoice_otel.otlp.encode import Trace, of_operation
from vibevoice_otel.otlp.request import Envelope
from vibevoice_otel.otlp.sender import Sender
from vibevoice_otel.recording.records import AttributeValue, Operation
from vibevoice_otel.sdk.capability import Unknown
from vibevoice_otel.sdk.spans import sdk_tracer

#: Attributes that no record but vibevoice.synthesize (which the SDK makes) has more of.
MOST_ATTRIBUTES = 16
SELF_METRICS = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"


class SenderProcessor(Sender, SpanProcessor):
    """A sender that stands in the provider's chain, so that the provider's flush and shutdown reach it."""


def remove(chain: Any, sender: Sender) -> None:
    """Take ``sender`` out of the provider's chain again."""
    with chain._lock:
        chain._span_processors = tuple(each for each in chain._span_processors if each is not sender)


@dataclass(frozen=True, slots=True)
class Inside:
    """What is taken from the SDK's tracer."""

    chain: Any  # SynchronousMultiSpanProcessor
    resource: Resource
    scope: InstrumentationScope
    max_attributes: int | None
    max_text: int | None


def inside(tracer: trace.Tracer) -> Inside:
    """What is needed of the SDK's tracer behind ``tracer``.

    Raises:
        Unknown: when it is not the SDK's, or its internals are unsupported.
    """
    inner = sdk_tracer(tracer)
    try:
        limits, resource, scope = inner._span_limits, inner.resource, inner._instrumentation_scope
        longest = limits.max_span_attribute_length
        found = Inside(inner.span_processor, resource, scope, limits.max_span_attributes, longest)
    except AttributeError as error:
        raise Unknown(f"unsupported internals of the SDK's tracer ({error})") from error
    if not isinstance(resource, Resource) or not isinstance(scope, InstrumentationScope):
        raise Unknown("unsupported internals of the SDK's tracer (its resource or scope)")
    return found


def processors(chain: Any) -> tuple[Any, ...]:
    """The span processors of the provider's chain, in order.

    Raises:
        Unknown: when the chain is not the SDK's sequential one.
    """
    if type(chain) is not sdk_trace.SynchronousMultiSpanProcessor:
        raise Unknown(f"the provider's processors are called by {_name(chain)}")
    members = getattr(chain, "_span_processors", None)
    if not isinstance(members, tuple):
        raise Unknown("the provider's processors cannot be listed")
    return members


def exporters(members: tuple[Any, ...]) -> list[tuple[BatchSpanProcessor, Any, float]]:
    """(processor, its exporter, seconds between its exports) of each processor.

    Raises:
        Unknown: when one of them is not the SDK's BatchSpanProcessor.
    """
    found = []
    for processor in members:
        if isinstance(processor, SenderProcessor):
            continue
        if type(processor) is not BatchSpanProcessor:
            raise Unknown(f"{_name(processor)} is not the SDK's BatchSpanProcessor, so it gets every span as an object")
        batch = getattr(processor, "_batch_processor", None)
        delay = getattr(batch, "_schedule_delay", None)
        if not isinstance(delay, int | float) or getattr(processor, "span_exporter", None) is None:
            raise Unknown("unsupported internals of the SDK's BatchSpanProcessor")
        found.append((processor, processor.span_exporter, float(delay)))
    return found


def check_limits(limits: Inside) -> None:
    """Raise :class:`Unknown` where span limits or self-metrics ask for span objects."""
    if limits.max_attributes is not None and limits.max_attributes < MOST_ATTRIBUTES:
        raise Unknown(f"spans are limited to {limits.max_attributes} attributes (OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT)")
    if os.environ.get(SELF_METRICS, "").strip().lower() == "true":
        raise Unknown(f"the SDK counts spans for metrics of its own ({SELF_METRICS})")


def envelope(resource: Resource, scope: InstrumentationScope, max_text: int | None) -> Envelope:
    """What surrounds spans on the wire, taken from the stock encoder; verifies that ours writes spans as it does.

    Raises:
        Unknown: when this release's encoder writes them otherwise.
    """
    context = SpanContext(0xA1, 0xB2, False, TraceFlags(TraceFlags.SAMPLED))
    parent = SpanContext(0xA1, 0xC3, False, TraceFlags(TraceFlags.SAMPLED))
    values: dict[str, AttributeValue] = {
        semconv.STEP_INDEX.key: 300,
        semconv.STEP_MEAN.key: 0.5,
        semconv.LM_BRANCH.key: "é",
        semconv.STREAM_PARTIAL.key: True,
    }
    attributes: dict[str, Any] = {**values, semconv.ERROR_TYPE.key: "E"}
    sample = sdk_trace.ReadableSpan(
        name=semconv.STEP.name, context=context, parent=parent, resource=resource, kind=SpanKind.INTERNAL, start_time=1,
        end_time=2, attributes=attributes, status=Status(StatusCode.ERROR, "E"), instrumentation_scope=scope,
    )  # fmt: skip
    stock = encode_spans([sample])
    outer = stock.resource_spans[0]
    inner = outer.scope_spans[0]
    made = Envelope(
        resource=wire.delimited(b"\x0a", outer.resource.SerializeToString()),
        resource_schema=wire.delimited(b"\x1a", wire.text(outer.schema_url)) if outer.schema_url else b"",
        scope=wire.delimited(b"\x0a", inner.scope.SerializeToString()),
        scope_schema=wire.delimited(b"\x1a", wire.text(inner.schema_url)) if inner.schema_url else b"",
    )
    operation = Operation(semconv.STEP, 1, 2, 0xB2, 0xC3, values, "E")
    ours = made.wrap([of_operation(operation, Trace((0xA1).to_bytes(16, "big"), b"", 0, max_text))])
    if type(stock).FromString(ours.SerializeToString()) != stock and max_text is None:
        raise Unknown("this release's encoder writes spans otherwise")
    return made


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
