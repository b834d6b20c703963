"""All that must be taken from the SDK's insides, guarded: when a release moves them, the public API is used, with one warning.

The public API cannot make a span with a chosen id, and a child of a long stream is exported before its parent has ended.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult
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


# --------------------------------------------------------------------------------------------------------- what exports spans


def exporting(provider: trace.TracerProvider) -> list[SpanProcessor]:
    """The provider's processors that hand spans to an exporter, and so ignore what is not sampled; none where they cannot be listed."""
    members = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    return [each for each in members if isinstance(each, SpanProcessor) and hasattr(each, "span_exporter")]


def room(processor: SpanProcessor) -> int | None:
    """Spans that a BatchSpanProcessor takes right now without pushing others out; None where that is not to be seen."""
    batch = getattr(processor, "_batch_processor", None)
    queue, size = getattr(batch, "_queue", None), getattr(batch, "_max_queue_size", None)
    return size - len(queue) if isinstance(size, int) and isinstance(queue, Sized) else None


def count_losses(processor: SpanProcessor, on_drop: Callable[[str, str, int], None]) -> bool:
    """Have ``on_drop`` told (what, reason, count) of spans that ``processor`` or its exporter loses; False where that is not to be seen.

    The SDK says so only in logs, or in metrics of its own that halve its rate.
    """
    exporter: Any = getattr(processor, "span_exporter", None)
    metrics: Any = getattr(getattr(processor, "_batch_processor", None), "_metrics", None)
    export, drop = getattr(exporter, "export", None), getattr(metrics, "drop_items", None)
    if not callable(export):
        return False
    if "export" in vars(exporter):
        return True  # counted already

    def counted(spans: Sequence[ReadableSpan], *args: Any, **kwargs: Any) -> SpanExportResult:
        try:
            result: SpanExportResult = export(spans, *args, **kwargs)
        except Exception:
            on_drop("spans", "export_failed", len(spans))
            raise
        if result is SpanExportResult.FAILURE:
            on_drop("spans", "export_failed", len(spans))
        return result

    exporter.export = counted
    if callable(drop):
        original = drop

        def dropped(count: int, error_type: str = "queue_full") -> None:
            original(count, error_type)
            on_drop("spans", "shutdown" if error_type == "already_shutdown" else error_type, count)

        metrics.drop_items = dropped
    return True


def begin_anew(meter_provider: object) -> bool:
    """Forget what has been counted: in a forked child it is the parent's, and would be told twice. False where the SDK is not as known."""
    storages = getattr(getattr(meter_provider, "_measurement_consumer", None), "_reader_storages", None)
    if not isinstance(storages, Mapping):
        return False
    for storage in storages.values():
        for matches in getattr(storage, "_instrument_view_instrument_matches", {}).values():
            for match in matches:
                getattr(match, "_attributes_aggregation", {}).clear()
    return True


def ensure_instance_id(providers: Iterable[object]) -> None:
    """Give each provider's resource a service.instance.id of this process where it has none (SDKs before 1.45 set none).

    The resource is changed in place, for tracers and meters that were made before hold on to it.
    """
    identity = str(uuid.uuid4())
    for provider in providers:
        resource = getattr(provider, "resource", None) or getattr(
            getattr(provider, "_sdk_config", None), "resource", None
        )
        if not isinstance(resource, Resource) or resource.attributes.get(SERVICE_INSTANCE_ID) != _OURS.get(
            id(resource)
        ):
            continue  # the operator's, or the SDK's own
        resource._attributes = BoundedAttributes(
            attributes={**resource.attributes, SERVICE_INSTANCE_ID: identity}, immutable=True
        )
        _OURS[id(resource)] = identity


#: The ids that we gave, by id() of the resource (which lives as long as its provider, that is, as long as the process).
_OURS: dict[int, str] = {}
