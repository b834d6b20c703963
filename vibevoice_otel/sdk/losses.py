"""Counts the spans that the SDK's processors and exporters lose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult

from vibevoice_otel.hooks.hooks import Hooks

PART = "counting what exporters lose"


def count_losses(hooks: Hooks, processor: SpanProcessor) -> None:
    """Have the ``on_drop`` of ``hooks`` told (what, reason, count) of spans that ``processor`` or its exporter loses,
    where that is to be seen.

    The SDK says so only in logs, or in metrics of its own that halve its rate.
    """
    exporter: Any = getattr(processor, "span_exporter", None)
    metrics: Any = getattr(getattr(processor, "_batch_processor", None), "_metrics", None)
    for owner, name, hook in ((exporter, "export", _exporting), (metrics, "drop_items", _dropping)):
        if hasattr(owner, name) and hasattr(owner, "__dict__"):
            hooks.replace(owner, name, partial(hook, hooks), PART)


def _exporting(
    hooks: Hooks,
    export: Callable[..., SpanExportResult],
    /,
    spans: Sequence[ReadableSpan],
    *args: Any,
    **kwargs: Any,
) -> SpanExportResult:
    result: SpanExportResult = SpanExportResult.FAILURE
    try:
        result = export(spans, *args, **kwargs)
        return result
    finally:
        if result is SpanExportResult.FAILURE:
            hooks.on_drop("spans", "export_failed", len(spans))


def _dropping(hooks: Hooks, drop: Callable[..., None], /, count: int, error_type: str = "queue_full") -> None:
    drop(count, error_type)
    hooks.on_drop("spans", "shutdown" if error_type == "already_shutdown" else error_type, count)
