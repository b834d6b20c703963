"""The finished facts: one record for each operation, single or in columns. Every sink reads these and nothing else.

Times are nanoseconds since 1970. Ids are the span ids that exporters will use, chosen here so that a child can be
exported before its parent ends, and an exemplar can name a span that is yet to be sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel import semconv

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context

AttributeValue = str | int | float | bool
Ints = NDArray[np.int64]
Ids = NDArray[np.uint64]
Column = NDArray[np.int64] | NDArray[np.float64] | NDArray[np.str_] | AttributeValue


@dataclass(slots=True)
class Operation:
    """One finished operation that happens once or rarely in a request."""

    span: semconv.Span
    start: int
    end: int
    span_id: int
    parent_id: int
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    error_type: str | None = None

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / 1e9

    def span_attributes(self) -> dict[str, AttributeValue]:
        """The span's attributes: its own, and error.type where it failed."""
        if self.error_type is None:
            return self.attributes
        return {**self.attributes, semconv.ERROR_TYPE.key: self.error_type}

    def listed(self, attribute: semconv.Attribute) -> list[str]:
        """The values of an attribute that holds several, with commas between them."""
        value = self.attributes.get(attribute.key)
        return str(value).split(",") if value else []


@dataclass(slots=True)
class Block:
    """n finished operations of one kind in one request, as columns of shape (n,), in order of time.

    ``attributes`` maps a span attribute's key to a column of shape (n,) or to one value that all rows share.
    ``exported`` is the mask that the span budget sets: the rows to export, None for all; metrics ignore it.
    """

    span: semconv.Span
    start: Ints
    end: Ints
    span_id: Ids
    parent_id: Ids
    attributes: dict[str, Column] = field(default_factory=dict)
    exported: NDArray[np.bool_] | None = None
    #: Values that feed metrics but stand on no span, by name (for example memory changes of each step in bytes).
    measures: dict[str, NDArray[np.int64] | NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.start)

    def span_attributes(self, rows: slice = slice(None)) -> list[dict[str, AttributeValue]]:
        """The span attributes of each of ``rows``.

        An empty string, or a double that is not a number, says that this row has no such attribute.
        """
        shared: dict[str, AttributeValue] = {}
        columns: dict[str, list[AttributeValue]] = {}
        for key, column in self.attributes.items():
            if isinstance(column, str | int | float | bool):
                shared[key] = column
            else:
                columns[key] = column[rows].tolist()
        return [
            {
                **shared,
                **{
                    key: values[row]
                    for key, values in columns.items()
                    if values[row] != "" and values[row] == values[row]
                },
            }
            for row in range(len(self.start[rows]))
        ]

    def take(self, rows: slice | NDArray[np.bool_]) -> Block:
        """Those of ``rows``, with the attributes that any of them has."""
        return Block(
            self.span, self.start[rows], self.end[rows], self.span_id[rows], self.parent_id[rows],
            {
                key: column[rows] if isinstance(column, np.ndarray) else column
                for key, column in self.attributes.items() if not _unknown(column, rows)
            },
            None if self.exported is None else self.exported[rows],
            {name: values[rows] for name, values in self.measures.items()},
        )  # fmt: skip

    def rows(self) -> list[tuple[int, int, int, int, dict[str, AttributeValue]]]:
        """The exported rows as (start, end, span_id, parent_id, attributes) of Python values."""
        times = (self.start.tolist(), self.end.tolist(), self.span_id.tolist(), self.parent_id.tolist())
        whole = list(zip(*times, self.span_attributes(), strict=True))
        return whole if self.exported is None else [row for row, kept in zip(whole, self.exported, strict=True) if kept]

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Durations, shape (n,)."""
        return (self.end - self.start) / 1e9


def _unknown(column: Column, rows: slice | NDArray[np.bool_]) -> bool:
    """Whether a column says nothing of these rows."""
    return isinstance(column, np.ndarray) and column.dtype.kind == "f" and bool(np.isnan(column[rows]).all())


@dataclass(frozen=True, slots=True)
class Labels:
    """The request's metric attribute values, already bounded."""

    voice: str
    cfg: str
    steps: str
    text_length_range: str


@dataclass(slots=True)
class Batch:
    """What a request has finished since its last batch. A short request has one, a long stream several.

    The synthesize operation is in the last batch alone (``final``); children of earlier ones name its id already.
    """

    request: int  # a number unique in the process, the same for all batches of a request
    trace_id: int
    root_id: int  # span id of vibevoice.synthesize
    server_id: int  # span id of its parent, 0 when there is none
    sampled: bool
    recording: bool  # a sampler may record (for processors) what it does not export
    labels: Labels
    operations: list[Operation]
    blocks: list[Block]
    final: bool
    earlier: int = 0  # batches of the same request before this one
    synthetic: bool = False
    on_end: Callable[[Batch], None] | None = None  # of the final batch: asked for while the request was served
    tenant: str | None = None  # of the final batch, where the operator asks for tenants
    warm_up: bool = False  # made while the application was starting up, by the service itself
    profiled: bool = False  # a profiler slowed it: its latencies are not the service's
    status: semconv.Status | None = None  # of the final batch
    error_type: str | None = None
    #: Seconds of each semconv.Part of the first-audio latency, in the batch that first knows it.
    first_audio_parts: Mapping[str, float] | None = None
    #: Frames by semconv.Defect kind, in this batch.
    defects: Mapping[str, int] = field(default_factory=dict)
    underruns: int = 0  # in this batch
    #: Seconds between consecutive sends that carry audio, shape (n,), in this batch.
    chunk_intervals: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    audio_seconds: float = 0.0  # made in this batch
    generate_seconds: float = 0.0  # spent generating, in this batch
    device_id: str | None = None
    #: Non-empty binary sends of this batch, shape (n, 3): start, end (nanoseconds since 1970), bytes.
    sends: Ints = field(default_factory=lambda: np.empty((0, 3), np.int64))

    def operation(self, span: semconv.Span) -> Operation | None:
        """The first operation of this kind, if any."""
        return next((operation for operation in self.operations if operation.span is span), None)

    def block(self, span: semconv.Span) -> Block | None:
        """The block of this kind, if any."""
        return next((b for b in self.blocks if b.span is span), None)


class Sink(Protocol):
    """Reads finished records. Called on the recorder's one background thread; must not keep it long."""

    def consume(self, batch: Batch) -> None: ...


class Emitter(Sink, Protocol):
    """The last sink: makes the spans."""

    tracer: trace.Tracer

    def open(self, request: int, start_time: int, context: Context | None) -> trace.Span:
        """Start vibevoice.synthesize at ``start_time`` (nanoseconds since 1970) under ``context``'s span."""
        ...


class IdSource(Protocol):
    """Where span ids come from (the SDK's generator, or many at once)."""

    def take(self, count: int) -> Ids:
        """``count`` non-zero random ids, shape (count,)."""
        ...
