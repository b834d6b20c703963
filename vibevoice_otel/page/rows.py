"""Span records as the browser reads them: columns of plain values, times relative to the request's arrival."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vibevoice_otel import semconv
from vibevoice_otel.recording.records import AttributeValue, Batch, Block

#: What the page's script calls each span; it knows these words and no telemetry names.
KINDS: dict[semconv.Span, str] = {
    semconv.LISTEN: "listen",
    semconv.SYNTHESIZE: "request",
    semconv.QUEUE: "queue",
    semconv.MODEL_LOAD: "model_load",
    semconv.VOICE_LOAD: "voice_load",
    semconv.PREPROCESS: "preprocess",
    semconv.GENERATE: "generate",
    semconv.PREFILL: "prefill",
    semconv.FRAME: "frame",
    semconv.LM_FORWARD: "lm",
    semconv.STEP: "step",
    semconv.DECODE: "decode",
    semconv.SEMANTIC_ENCODE: "semantic",
    semconv.CONNECTOR: "connector",
    semconv.FIRST_CHUNK: "first_chunk",
}
#: Never shown, even where the operator lets it into the traces: whoever may see the page need not be whoever may see
#: those.
HIDDEN = frozenset({semconv.TEXT.key})
#: Rows in one message, so that a large trace is never encoded in one go: that would hold the interpreter against the
#: model.
CHUNK = 500
#: A message's columns, all of one length.
Rows = dict[str, list[Any]]


def encode(batch: Batch, origin: int) -> Iterator[Rows]:
    """``batch`` in messages of at most CHUNK rows.

    Columns: ``kind`` (a word of KINDS), ``id`` and ``parent`` (16 hex digits, parent "" for none), ``start`` and
    ``end`` (nanoseconds after ``origin``, itself nanoseconds since 1970), ``info`` (attributes; ``error.type`` among
    them) and ``kept`` (False for a span that the span budget leaves out of the export).
    """
    operations = [op for op in batch.operations if op.span in KINDS]
    if operations:
        yield {
            "kind": [KINDS[op.span] for op in operations],
            "id": [f"{op.span_id:016x}" for op in operations],
            "parent": [f"{op.parent_id:016x}" if op.parent_id else "" for op in operations],
            "start": [op.start - origin for op in operations],
            "end": [op.end - origin for op in operations],
            "info": [_shown(op.span_attributes()) for op in operations],
            "kept": [True] * len(operations),
        }
    # Parents first: a frame's children follow it.
    for block in sorted(batch.blocks, key=lambda b: b.span is not semconv.FRAME):
        if block.span in KINDS:
            yield from _encode_block(batch, block, origin)


def _encode_block(batch: Batch, block: Block, origin: int) -> Iterator[Rows]:
    for first in range(0, len(block), CHUNK):
        part = slice(first, first + CHUNK)
        start = (block.start[part] - origin).tolist()
        yield {
            "kind": [KINDS[block.span]] * len(start),
            "id": [f"{value:016x}" for value in block.span_id[part].tolist()],
            "parent": [f"{value or batch.root_id:016x}" for value in block.parent_id[part].tolist()],
            "start": start,
            "end": (block.end[part] - origin).tolist(),
            "info": [_shown(each) for each in block.span_attributes(part)],
            "kept": [True] * len(start) if block.exported is None else block.exported[part].tolist(),
        }


def _shown(attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    return {key: value for key, value in attributes.items() if key not in HIDDEN}


def sends(batch: Batch, origin: int) -> list[list[int]]:
    """The batch's audio sends as [return of the send in nanoseconds after ``origin``, bytes]."""
    table = batch.sends[:, 1:].copy()
    table[:, 0] -= origin
    return table.tolist()  # type: ignore[no-any-return]
