"""Counts the spans that the SDK's processors and exporters lose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult

Dropped = Callable[[str, str, int], None]
#: Attribute of a method of ours on an object of the SDK's: whom it tells, a list of one, or of none once that is taken
#: out.
TOLD = "_vibevoice_otel_told"


def count_losses(processor: SpanProcessor, on_drop: Dropped) -> Callable[[], None]:
    """Have ``on_drop`` told (what, reason, count) of spans that ``processor`` or its exporter loses, where that is to
    be seen.

    The SDK says so only in logs, or in metrics of its own that halve its rate.

    Returns:
        What takes it back, and leaves both objects as they were.
    """
    exporter: Any = getattr(processor, "span_exporter", None)
    metrics: Any = getattr(getattr(processor, "_batch_processor", None), "_metrics", None)
    undo = [_watch(exporter, "export", _exporting, on_drop), _watch(metrics, "drop_items", _dropping, on_drop)]

    def take_back() -> None:
        for each in undo:
            each()

    return take_back


def _watch(
    owner: Any, name: str, make: Callable[[Any, list[Dropped]], Callable[..., Any]], on_drop: Dropped
) -> Callable[[], None]:
    original = getattr(owner, name, None)
    if not callable(original) or not hasattr(owner, "__dict__"):
        return lambda: None
    told: list[Dropped] | None = getattr(original, TOLD, None)
    own, replacement = vars(owner).get(name), None
    if told is None:  # else ours of an earlier time stays inside another library's wrapper
        told = []
        replacement = make(original, told)
        setattr(replacement, TOLD, told)
        setattr(owner, name, replacement)
    told[:] = [on_drop]

    def take_back() -> None:
        told.clear()
        if replacement is not None and vars(owner).get(name) is replacement:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

    return take_back


def _exporting(export: Any, told: list[Dropped]) -> Callable[..., SpanExportResult]:
    def counted(spans: Sequence[ReadableSpan], *args: Any, **kwargs: Any) -> SpanExportResult:
        result: SpanExportResult = SpanExportResult.FAILURE
        try:
            result = export(spans, *args, **kwargs)
            return result
        finally:
            if result is SpanExportResult.FAILURE:
                for on_drop in told:
                    on_drop("spans", "export_failed", len(spans))

    return counted


def _dropping(drop: Any, told: list[Dropped]) -> Callable[..., None]:
    def dropped(count: int, error_type: str = "queue_full") -> None:
        drop(count, error_type)
        for on_drop in told:
            on_drop("spans", "shutdown" if error_type == "already_shutdown" else error_type, count)

    return dropped
