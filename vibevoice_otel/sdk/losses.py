"""Counts the spans that the SDK's processors and exporters lose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult


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
