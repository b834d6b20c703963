"""All that must be taken from the SDK's insides, guarded: when a release moves them, the public API is used, with one warning.

The public API cannot make a span with a chosen id, and a child of a long stream is exported before its parent has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import trace
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode

if TYPE_CHECKING:  # records brings numpy, which a program that never speaks shall not pay for
    from vibevoice_otel.recording.records import AttributeValue

logger = logging.getLogger(__name__)
_warned = False


class SpanFactory(Protocol):
    """Makes and ends one span, as if the tracer had started it: on_start and on_end of every processor are called."""

    def __call__(
        self,
        name: str,
        span_id: int,
        parent_id: int,
        start: int,
        end: int,
        attributes: Mapping[str, AttributeValue],
        error_type: str | None,
    ) -> None: ...


def id_generator(provider: trace.TracerProvider) -> IdGenerator | None:
    """The provider's id generator, None when it is not the SDK's provider."""
    return getattr(provider, "id_generator", None)


def span_factory(tracer: trace.Tracer, root: trace.Span) -> SpanFactory:
    """A factory of spans in ``root``'s trace, with ``root``'s sampling decision.

    Falls back to the public API (ids are then the SDK's own) where the SDK's insides are not as known.
    """
    try:
        return _direct(tracer, root)
    except (AttributeError, TypeError) as error:
        global _warned  # noqa: PLW0603 - once a process, not once a span
        if not _warned:
            _warned = True
            logger.warning(
                "this OpenTelemetry SDK's insides are unknown (%s); spans are made through its public API", error
            )
        return _public(tracer, root)


def _direct(tracer: trace.Tracer, root: trace.Span) -> SpanFactory:
    inner: Any = tracer
    if not isinstance(inner, sdk_trace.Tracer):
        inner = getattr(inner, "_tracer", inner)  # the API's proxy, once a provider has been set
    processor, resource, limits = inner.span_processor, inner.resource, inner._span_limits
    scope, info, sampler = inner._instrumentation_scope, inner.instrumentation_info, inner.sampler
    span_class = sdk_trace._Span
    own = root.get_span_context()
    contexts: dict[int, tuple[SpanContext, Any]] = {}

    def parent_of(parent_id: int) -> tuple[SpanContext, Any]:
        if parent_id not in contexts:
            parent = (
                own
                if parent_id == own.span_id
                else SpanContext(own.trace_id, parent_id, False, own.trace_flags, own.trace_state)
            )
            contexts[parent_id] = (parent, trace.set_span_in_context(NonRecordingSpan(parent)))
        return contexts[parent_id]

    def make(
        name: str,
        span_id: int,
        parent_id: int,
        start: int,
        end: int,
        attributes: Mapping[str, AttributeValue],
        error_type: str | None,
    ) -> None:
        parent, context = parent_of(parent_id)
        span = span_class(
            name=name, context=SpanContext(own.trace_id, span_id, False, own.trace_flags, own.trace_state), parent=parent, sampler=sampler,
            resource=resource, attributes=attributes, span_processor=processor, kind=SpanKind.INTERNAL, instrumentation_info=info,
            limits=limits, instrumentation_scope=scope,
        )  # fmt: skip
        span.start(start_time=start, parent_context=context)
        if error_type is not None:
            span.set_status(Status(StatusCode.ERROR, error_type))
        span.end(end)

    return make


def emit_root(
    tracer: trace.Tracer, context: SpanContext, name: str, kind: SpanKind, start: int, end: int,
    attributes: Mapping[str, AttributeValue], error_type: str | None,
) -> bool:  # fmt: skip
    """Make and end the first span of a trace with the ids that ``context`` has; False where the SDK's insides are unknown.

    The public API can choose no id, so there is nothing to fall back to.
    """
    try:
        inner: Any = tracer if isinstance(tracer, sdk_trace.Tracer) else getattr(tracer, "_tracer", tracer)
        span = sdk_trace._Span(
            name=name, context=context, parent=None, sampler=inner.sampler, resource=inner.resource, attributes=attributes,
            span_processor=inner.span_processor, kind=kind, instrumentation_info=inner.instrumentation_info,
            limits=inner._span_limits, instrumentation_scope=inner._instrumentation_scope,
        )  # fmt: skip
        span.start(start_time=start)
        if error_type is not None:
            span.set_status(Status(StatusCode.ERROR, error_type))
        span.end(end)
    except (AttributeError, TypeError):
        return False
    return True


def _public(tracer: trace.Tracer, root: trace.Span) -> SpanFactory:
    own = root.get_span_context()
    made: dict[
        int, SpanContext
    ] = {}  # the API gives ids of its own; a parent that is yet to come is replaced by the root

    def make(
        name: str,
        span_id: int,
        parent_id: int,
        start: int,
        end: int,
        attributes: Mapping[str, AttributeValue],
        error_type: str | None,
    ) -> None:
        context = trace.set_span_in_context(NonRecordingSpan(made.get(parent_id, own)))
        span = tracer.start_span(name, context=context, attributes=dict(attributes), start_time=start)
        made[span_id] = span.get_span_context()
        if error_type is not None:
            span.set_status(Status(StatusCode.ERROR, error_type))
        span.end(end)

    return make
