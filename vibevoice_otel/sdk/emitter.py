"""Records to spans: ordinary ReadableSpans through the SDK's own processors, with the ids and times that the records
carry.

This is the plain path, valid for every processor and exporter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from vibevoice_otel import semconv
from vibevoice_otel.recording import outcome
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.sdk.spans import SpanFactory

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from vibevoice_otel.sdk.span_bytes import FastSpans


class SpanEmitter:
    """Opens vibevoice.synthesize through the API (a sampler decides, log lines and user code see it), emits the rest
    from records.

    Args:
        tracer: makes the spans.
        fast: a cheaper way to export a batch, None for none.
    """

    def __init__(self, tracer: trace.Tracer, fast: FastSpans | None = None) -> None:
        self.tracer = tracer
        self._fast = fast
        self._open: dict[int, trace.Span] = {}  # by request; the recorder bounds these

    def open(self, request: int, start_time: int, context: Context | None) -> trace.Span:
        """Start vibevoice.synthesize at ``start_time`` (nanoseconds since 1970) under ``context``'s span."""
        span = self.tracer.start_span(semconv.SYNTHESIZE.name, context=context, start_time=start_time)
        self._open[request] = span
        return span

    def consume(self, batch: Batch) -> None:
        root = self._open.get(batch.request)
        if root is None:
            return
        if batch.final:
            del self._open[batch.request]
        try:
            if batch.recording and not (self._fast is not None and self._fast.emit(batch, root.get_span_context())):
                self._emit(batch, root)
        finally:
            if batch.final:
                self._end_root(root, batch)

    def _emit(self, batch: Batch, root: trace.Span) -> None:
        factory = SpanFactory(self.tracer, root)
        for operation in batch.operations:
            if operation.span is not semconv.SYNTHESIZE:
                factory(operation.span.name, operation.span_id, operation.parent_id, operation.start, operation.end,
                        operation.span_attributes(), operation.error_type)  # fmt: skip
        for block in sorted(batch.blocks, key=lambda b: b.span is not semconv.FRAME):  # parents first
            for start, end, span_id, parent, attributes in block.rows():
                factory(block.span.name, span_id, parent or batch.root_id, start, end, attributes, None)

    @staticmethod
    def _end_root(root: trace.Span, batch: Batch) -> None:
        operation = next(op for op in batch.operations if op.span is semconv.SYNTHESIZE)
        root.set_attributes(operation.span_attributes())
        if outcome.failed(batch.status, batch.error_type):
            root.set_status(Status(StatusCode.ERROR, batch.error_type))
        root.end(operation.end)
