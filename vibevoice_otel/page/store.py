"""The recorder's finished records in a bounded ring. No span is built for it: it keeps references to the records
themselves.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vibevoice_otel import forking, semconv
from vibevoice_otel.recording.records import Batch, Operation

#: Estimated bytes of an Operation; a Block's weight is its arrays'.
OPERATION_BYTES = 600
ROW_BYTES = 32
MAX_PENDING = 4096  # open requests that have been drained


@dataclass(slots=True)
class StoredRequest:
    """One request: its batches, and once it has ended what the list shows of it."""

    number: int
    trace: str  # 32 hex digits, "" when there is no trace
    batches: list[Batch] = field(default_factory=list)
    weight: int = 0  # bytes, reckoned
    omitted: int = 0  # rows let go so that one long stream does not fill the store
    summary: dict[str, Any] | None = None  # None while open
    origin: int = 0  # arrival, nanoseconds since 1970; known at the end

    @property
    def final(self) -> Batch:
        return self.batches[-1]


#: Whether a request met an objective, from its status and its vibevoice.synthesize; None when it does not count.
Judge = Callable[[semconv.Status, Operation], bool | None]


class Store:
    """A sink (see recording.records.Sink) that remembers the latest requests.

    Args:
        max_requests: finished requests kept.
        max_bytes: reckoned weight of all that is kept; one open request may hold a quarter of it, many open ones share
            it.
        judge: whether a request met the first-audio objective, None when it does not count (metrics.from_spans
            decides).
        judge_gap: the same of the continuity objective.
    """

    def __init__(
        self,
        max_requests: int,
        max_bytes: int,
        judge: Judge = lambda _status, _root: None,
        judge_gap: Judge = lambda _status, _root: None,
    ) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._judge, self._judge_gap = judge, judge_gap
        forking.begin(self._begin_anew)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, StoredRequest] = {}
        self._finished: deque[StoredRequest] = deque()
        self._weight = 0
        self.version = 0  # counts finished requests and changes to them

    def consume(self, batch: Batch) -> None:
        if not batch.final and any(op.span_id == batch.root_id for op in batch.operations):
            return  # an operation outside any request: the model loaded at start-up
        with self._lock:
            kept = self._open.get(batch.request)
            if kept is None:
                if len(self._open) >= MAX_PENDING:
                    return
                kept = self._open[batch.request] = StoredRequest(
                    batch.request, f"{batch.trace_id:032x}" if batch.trace_id else ""
                )
            kept.batches.append(batch)
            kept.weight += weight(batch)
            self._lighten(kept)
            if batch.final:
                self._finish(kept)

    def _lighten(self, kept: StoredRequest) -> None:
        """A stream of hours lets its oldest frames' insides go, then its oldest frames."""
        limit = self._max_bytes // max(4, len(self._open))
        for everything in (False, True):
            for batch in kept.batches[:-1]:
                if kept.weight <= limit:
                    return
                before, rows = weight(batch), sum(len(block) for block in batch.blocks)
                batch.blocks = (
                    [] if everything else [b for b in batch.blocks if b.span in (semconv.FRAME, semconv.PREFILL)]
                )
                kept.omitted += rows - sum(len(block) for block in batch.blocks)
                kept.weight += weight(batch) - before

    def _finish(self, kept: StoredRequest) -> None:
        del self._open[kept.number]
        root = kept.final.operation(semconv.SYNTHESIZE)
        if root is None:
            return
        kept.origin = root.start
        assert kept.final.status is not None
        status = kept.final.status
        judged = {"in_time": self._judge(status, root), "continuous": self._judge_gap(status, root)}
        kept.summary = {**summary(kept, root), **judged}
        self._finished.append(kept)
        self._weight += kept.weight
        while len(self._finished) > self._max_requests or (self._weight > self._max_bytes and len(self._finished) > 1):
            self._weight -= self._finished.popleft().weight
        self.version += 1

    # ---------------------------------------------------------------------------------------------------------- reading

    def summaries(self) -> list[dict[str, Any]]:
        """What is known of each finished request, oldest first."""
        with self._lock:
            return [kept.summary for kept in self._finished if kept.summary is not None]

    def find(self, key: str) -> StoredRequest | None:
        """A request by its number or its trace id (the latest with it); open ones only if they have been drained."""
        with self._lock:
            everything = (*self._open.values(), *reversed(self._finished))
        return next((kept for kept in everything if key in {kept.trace, str(kept.number)}), None)

    def heard(self, kept: StoredRequest, listener: Mapping[str, Any]) -> None:
        """Add what the listener reported."""
        with self._lock:
            if kept.summary is not None:
                kept.summary = {**kept.summary, "listener": dict(listener)}
                self.version += 1


def weight(batch: Batch) -> int:
    """Reckoned bytes of a batch."""
    total = OPERATION_BYTES * (1 + len(batch.operations)) + batch.sends.nbytes
    for block in batch.blocks:
        total += ROW_BYTES * len(block)
        total += sum(column.nbytes for column in block.attributes.values() if hasattr(column, "nbytes"))
        total += sum(column.nbytes for column in block.measures.values())
    return total


def summary(kept: StoredRequest, root: Operation) -> dict[str, Any]:
    """What the list, the tiles and the charts show of a finished request. Durations in seconds, ``started`` in
    milliseconds since 1970.
    """
    final, said = kept.final, root.attributes
    parts = next((batch.first_audio_parts for batch in kept.batches if batch.first_audio_parts is not None), None)
    return {
        "number": kept.number,
        "trace": kept.trace,
        "started": root.start / 1e6,
        "seconds": root.seconds,
        "voice": said.get(semconv.VOICE.key, final.labels.voice),
        "status": str(final.status),
        "error": final.error_type,
        "first_audio": said.get(semconv.FIRST_AUDIO_LATENCY.key),
        "parts": dict(parts) if parts is not None else None,
        "audio": said.get(semconv.AUDIO_DURATION.key, 0.0),
        "real_time_factor": said.get(semconv.REAL_TIME_FACTOR.key),
        "frames": said.get(semconv.FRAMES.key, 0),
        "underruns": said.get(semconv.UNDERRUNS.key, 0),
        "gap": said.get(semconv.WORST_GAP.key),
        "finish": said.get(semconv.FINISH_REASON.key),
        "cfg": final.labels.cfg,
        "steps": final.labels.steps,
        "text": final.labels.text_length_range,
        "spans": sum(len(b.operations) + sum(len(block) for block in b.blocks) for b in kept.batches) + kept.omitted,
        "sampled": final.sampled,
        "synthetic": final.synthetic,
    }
