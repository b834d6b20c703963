"""Spans with chosen ids. The public API can make none, and a child of a long stream is exported before its parent has
ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode

from vibevoice_otel.sdk.capability import Capability, Unknown

if TYPE_CHECKING:  # records brings numpy, which a program that never speaks shall not pay for
    from vibevoice_otel.recording.records import AttributeValue


def id_generator(provider: trace.TracerProvider) -> IdGenerator | None:
    """The provider's id generator, None when it is not the SDK's provider."""
    return getattr(provider, "id_generator", None)


class SpanFactory:
    """Makes and ends spans in ``root``'s trace, with ``root``'s sampling decision, as if the tracer had started them:
    on_start and on_end of every processor are called.

    It makes them through the public API, under ids of the SDK's own, where this release cannot make them with chosen
    ids.
    """

    def __init__(self, tracer: trace.Tracer, root: trace.Span) -> None:
        self._tracer = tracer
        self._own = root.get_span_context()
        self._public: dict[int, SpanContext] = {}  # spans that the public API has made, by the id chosen for them

    def __call__(
        self,
        name: str,
        span_id: int,
        parent_id: int,
        start: int,
        end: int,
        attributes: Mapping[str, AttributeValue],
        error_type: str | None,
    ) -> None:
        """Make and end one span."""
        own = self._own
        if CHOSEN_IDS.works():
            parent = _context(own, parent_id)
            try:
                span = _new(self._tracer, name, _context(own, span_id), parent, attributes)
            except Exception as error:  # noqa: BLE001 - the release was supported at start, and is no longer
                CHOSEN_IDS.failed(error)
            else:
                span.start(start_time=start, parent_context=trace.set_span_in_context(NonRecordingSpan(parent)))
                _end(span, end, error_type)
                return
        # A parent that is yet to come is replaced by the root.
        context = trace.set_span_in_context(NonRecordingSpan(self._public.get(parent_id, own)))
        plain = self._tracer.start_span(name, context=context, attributes=dict(attributes), start_time=start)
        self._public[span_id] = plain.get_span_context()
        _end(plain, end, error_type)


def emit_root(
    tracer: trace.Tracer,
    context: SpanContext,
    name: str,
    kind: SpanKind,
    start: int,
    end: int,
    attributes: Mapping[str, AttributeValue],
    error_type: str | None,
) -> bool:
    """Make and end the first span of a trace with the ids that ``context`` has.

    Returns:
        False where this release cannot make it: the public API can choose no id, so there is nothing to fall back to.
    """
    if not CHOSEN_IDS.works():
        return False
    try:
        span = _new(tracer, name, context, None, attributes, kind)
    except Exception as error:  # noqa: BLE001
        CHOSEN_IDS.failed(error)
        return False
    span.start(start_time=start)
    _end(span, end, error_type)
    return True


def sdk_tracer(tracer: trace.Tracer) -> Any:
    """The SDK's tracer behind ``tracer``, which may be the API's proxy.

    Raises:
        Unknown: when there is none.
    """
    inner = tracer if isinstance(tracer, sdk_trace.Tracer) else getattr(tracer, "_tracer", None)
    if not isinstance(inner, sdk_trace.Tracer):
        raise Unknown("the tracer provider is not the SDK's")
    return inner


def _new(
    tracer: trace.Tracer,
    name: str,
    context: SpanContext,
    parent: SpanContext | None,
    attributes: Mapping[str, AttributeValue],
    kind: SpanKind = SpanKind.INTERNAL,
) -> sdk_trace.Span:
    inner = sdk_tracer(tracer)
    return sdk_trace._Span(
        name=name,
        context=context,
        parent=parent,
        sampler=inner.sampler,
        resource=inner.resource,
        attributes=attributes,
        span_processor=inner.span_processor,
        kind=kind,
        limits=inner._span_limits,
        instrumentation_scope=inner._instrumentation_scope,
    )


def _context(own: SpanContext, span_id: int) -> SpanContext:
    return SpanContext(own.trace_id, span_id, False, own.trace_flags, own.trace_state)


def _end(span: trace.Span, end: int, error_type: str | None) -> None:
    if error_type is not None:
        span.set_status(Status(StatusCode.ERROR, error_type))
    span.end(end)


class _Kept(SpanProcessor):
    """Not the SDK's own for memory: that one counts itself in the host's metrics of the SDK."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def probe() -> None:
    """Make a span with a chosen id on a provider of its own.

    Raises:
        Exception: when the span is not what was asked for.
    """
    kept = _Kept()
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(kept)
    tracer = provider.get_tracer("vibevoice_otel.probe", "1")
    root = tracer.start_span("root")
    own = root.get_span_context()
    child = _context(own, 0xB2)
    span = _new(tracer, "child", child, own, {"k": 1})
    span.start(start_time=1)
    _end(span, 2, "E")
    root.end()
    made, first = kept.spans
    if (made.context, made.parent, made.start_time, made.end_time) != (child, own, 1, 2) or (
        (made.name, dict(made.attributes or {}), made.status.description, made.resource, made.instrumentation_scope)
        != ("child", {"k": 1}, "E", first.resource, first.instrumentation_scope)
    ):
        raise Unknown("a span made with a chosen id is another one")


CHOSEN_IDS = Capability(
    "spans with chosen ids",
    probe,
    "spans are made through the public API: they get other ids, so that exemplars of diffusion steps lead to their "
    "trace alone",
)
