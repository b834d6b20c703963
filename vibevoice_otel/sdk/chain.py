"""The provider's span processors: which of them export, and how much room their queues have."""

from __future__ import annotations

from collections.abc import Sized

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor


def members(provider: trace.TracerProvider) -> list[SpanProcessor]:
    """The provider's processors; none where they cannot be listed."""
    found = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    return [each for each in found if isinstance(each, SpanProcessor)]


def exporting(provider: trace.TracerProvider) -> list[SpanProcessor]:
    """Those that hand spans to an exporter, and so ignore what is not sampled."""
    return [each for each in members(provider) if hasattr(each, "span_exporter")]


def room(processor: SpanProcessor) -> int | None:
    """Spans that a BatchSpanProcessor takes right now without pushing others out; None where that is not to be seen."""
    batch = getattr(processor, "_batch_processor", None)
    queue, size = getattr(batch, "_queue", None), getattr(batch, "_max_queue_size", None)
    return size - len(queue) if isinstance(size, int) and isinstance(queue, Sized) else None
