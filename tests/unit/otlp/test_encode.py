"""Our bytes against the stock encoder's, on random records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import TraceState

from tests.support.records import WHOLE, batches
from vibevoice_otel import semconv
from vibevoice_otel.otlp import encode, wire
from vibevoice_otel.otlp.encode import MAX_LAYOUTS, MAX_ROWS, Encoded, Trace, of_block, of_operation
from vibevoice_otel.recording.records import Batch, Block
from vibevoice_otel.sdk.emitter import SpanEmitter


class Stateful(Sampler):
    """A sampler that gives every trace a state."""

    def should_sample(self, *args: object, **kwargs: object) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE, None, TraceState([("vendor", "abc"), ("other", "1")]))

    def get_description(self) -> str:
        return "stateful"


def plain(
    batch: Batch, limits: SpanLimits | None = None, sampler: Sampler = ALWAYS_ON
) -> tuple[list[ReadableSpan], object]:
    """The spans that the plain path makes of ``batch`` (without the request's own), and that one's context."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(
        sampler=sampler, span_limits=limits, resource=Resource({"service.name": "s"}), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    emitter = SpanEmitter(provider.get_tracer(semconv.SCOPE, "1", semconv.SCHEMA_URL))
    root = emitter.open(batch.request, 1, None)
    batch.root_id = root.get_span_context().span_id
    emitter.consume(batch)
    return [s for s in exporter.get_finished_spans() if s.name != semconv.SYNTHESIZE.name], root.get_span_context()


def ours(batch: Batch, context: object, limits: SpanLimits | None = None) -> list[Span]:
    state = ",".join(f"{k}={v}" for k, v in context.trace_state.items())
    max_text = limits.max_span_attribute_length if limits else None
    shared = Trace(context.trace_id.to_bytes(16, "big"), state.encode(), context.span_id, max_text)
    pieces = [of_operation(op, shared) for op in batch.operations if op.span is not semconv.SYNTHESIZE]
    pieces += [piece for block in batch.blocks for piece in of_block(block, shared)]
    decoded = ScopeSpans.FromString(b"".join(piece.payload for piece in pieces))
    assert sum(piece.count for piece in pieces) == len(decoded.spans)
    return list(decoded.spans)


def stock(spans: list[ReadableSpan]) -> list[Span]:
    return [s for rs in encode_spans(spans).resource_spans for ss in rs.scope_spans for s in ss.spans]


def canonical(spans: list[Span]) -> list[bytes]:
    """Deterministic bytes, in an order of their own: the order of spans in a request means nothing."""
    return sorted(span.SerializeToString(deterministic=True) for span in spans)


@settings(max_examples=100, deadline=None)
@given(batches())
def test_every_field_is_what_the_stock_encoder_writes(batch: Batch) -> None:
    """Whatever a batch holds, the fast path's spans are the plain path's, field by field."""
    spans, context = plain(batch)
    assert canonical(ours(batch, context)) == canonical(stock(spans))


@settings(max_examples=25, deadline=None)
@given(batches())
def test_trace_state_and_text_limit_are_honoured(batch: Batch) -> None:
    """A sampler's trace state and OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT show in both paths alike."""
    limits = SpanLimits(max_span_attribute_length=3)
    spans, context = plain(batch, limits, Stateful())
    assert canonical(ours(batch, context, limits)) == canonical(stock(spans))


def block(rows: int, **attributes: object) -> Block:
    times = np.arange(rows, dtype=np.int64) + 1_700_000_000_000_000_000
    ids = np.arange(1, rows + 1, dtype=np.uint64)
    return Block(
        semconv.STEP, times, times + 1, ids, ids + 1, {semconv.STEP_INDEX.key: np.arange(rows) % 5, **attributes}
    )


def test_the_bytes_themselves_are_canonical() -> None:
    """Not only equal in meaning: a block's bytes are those that the message classes would write."""
    pieces = list(of_block(block(40), Trace(bytes(range(16)), b"", 7)))
    decoded = ScopeSpans.FromString(b"".join(piece.payload for piece in pieces))
    assert decoded.SerializeToString() == b"".join(piece.payload for piece in pieces)


def test_a_long_block_is_cut_into_pieces_that_a_grpc_receiver_takes() -> None:
    """No piece comes near 4 MiB, however long the stream; none is empty; nothing is lost between them."""
    pieces = list(of_block(block(2 * MAX_ROWS + 5), Trace(bytes(16), b"", 7)))
    assert [piece.count for piece in pieces] == [MAX_ROWS, MAX_ROWS, 5]
    assert max(len(piece.payload) for piece in pieces) < 1 << 20
    ids = [s.span_id for p in pieces for s in ScopeSpans.FromString(bytes(p.payload)).spans]
    assert len(set(ids)) == 2 * MAX_ROWS + 5


def test_a_block_with_nothing_exported_writes_nothing() -> None:
    """The span budget may leave out a whole block."""
    some = block(3)
    some.exported = np.zeros(3, bool)
    assert list(of_block(some, Trace(bytes(16), b"", 7))) == []


@given(WHOLE)
def test_a_varint_is_as_wide_as_it_says(value: int) -> None:
    """Templates leave exactly the room that a number takes."""
    assert len(wire.varint(value)) == wire.varint_width(value)


@pytest.mark.parametrize(("layouts", "kept"), [(3, 3), (600, MAX_LAYOUTS)])
def test_layouts_are_bounded(layouts: int, kept: int) -> None:
    """A service that runs for months with ever new attribute values keeps a bounded number of templates."""
    encode._make_layout.cache_clear()
    for number in range(layouts):
        list(of_block(block(1, **{semconv.LM_BRANCH.key: str(number)}), Trace(bytes(16), b"", 7)))
    assert encode._make_layout.cache_info().currsize == kept


@given(st.integers(0, 5), st.integers(0, 5))
def test_pieces_may_be_put_one_after_another(first: int, second: int) -> None:
    """A request is a concatenation: each piece frames its own spans."""
    shared = Trace(bytes(16), b"", 7)
    both: list[Encoded] = [*of_block(block(first), shared), *of_block(block(second), shared)]
    assert len(ScopeSpans.FromString(b"".join(piece.payload for piece in both)).spans) == first + second
