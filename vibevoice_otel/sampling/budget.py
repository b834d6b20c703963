"""The span budget: what is exported when there is too much of it. It degrades by value, not by chance, and says so.

Two limits stand in the settings: spans a second of this process, and spans of one trace (Tempo refuses a trace of over
5 MB). Past either, the frames of the first chunk, defective frames, each batch's slowest frames and a spread of the
rest keep their children; the others keep a frame span with the statistics of its steps. Metrics read every record all
the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel import semconv
from vibevoice_otel.recording.records import Batch, Block
from vibevoice_otel.settings import Settings

Mask = NDArray[np.bool_]
Places = NDArray[np.intp]
#: Of a trace's spans this share is spent in full detail; the rest is kept for the frames of a stream whose length
#: is not known yet.
FULL_DETAIL = 0.5
#: From then on a batch may spend this share of what is left on detail, so that a long stream still shows its worst
#: frames.
DETAIL_SHARE = 1 / 256
#: Kept for the operations that end a request: vibevoice.generate, vibevoice.first_chunk, vibevoice.synthesize ...
RESERVE = 16
#: Where it is not known when the first chunk was sent (no socket), so many frames count as its own.
FIRST_FRAMES = 4
#: Multiples of it fall evenly between those before, so that any first k rows of the order are spread over the batch.
GOLDEN = (5**0.5 - 1) / 2


@dataclass(slots=True)
class _Spent:
    """One request's account."""

    exported: int = 0
    omitted: int = 0
    first_audio: int | None = None  # when the first chunk had been sent (ns since 1970)


class SpanBudget:
    """Decides which records of each batch are exported as spans: the sink before all others. Lives on the recorder's
    thread.

    Args:
        settings: max_spans_per_second, max_trace_spans; drain_interval, over which the former is averaged.
        on_drop: told ("spans", "budget", count) of what was left out.
        clock: seconds, monotonic.
    """

    def __init__(
        self, settings: Settings, on_drop: Callable[[str, str, int], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = settings.max_spans_per_second
        self._most = self._rate * max(1.0, settings.drain_interval)  # a drain brings a whole interval's spans at once
        self._max_trace = settings.max_trace_spans
        self._on_drop = on_drop
        self._clock = clock
        self._tokens = self._most
        self._refilled = clock()
        self._requests: dict[int, _Spent] = {}

    def consume(self, batch: Batch) -> None:
        """Set ``Block.exported`` where there is too much; on the last batch, how many spans the trace has, and how many
        were left out.
        """
        if not batch.recording:
            return
        spent = self._requests.setdefault(batch.request, _Spent())
        first = batch.operation(semconv.FIRST_CHUNK)
        if first is not None:
            spent.first_audio = first.end
        at = self._clock()
        self._tokens = min(self._most, self._tokens + (at - self._refilled) * self._rate)
        self._refilled = at
        operations, rows = len(batch.operations), sum(len(block) for block in batch.blocks)
        allowed = min(int(self._tokens), self._room(spent, batch)) - operations
        kept = rows
        if rows > allowed:
            kept = _reduce(batch, max(0, allowed), spent.first_audio)
            spent.omitted += rows - kept
            if rows > kept:
                self._on_drop("spans", "budget", rows - kept)
        spent.exported += operations + kept
        self._tokens -= operations + kept
        if batch.final:
            del self._requests[batch.request]
            root = batch.operation(semconv.SYNTHESIZE)
            if root is not None:
                root.attributes[semconv.SPANS_EXPORTED.key] = spent.exported
                if spent.omitted:
                    root.attributes[semconv.SPANS_OMITTED.key] = spent.omitted

    def _room(self, spent: _Spent, batch: Batch) -> int:
        """How many more spans this trace may have in this batch."""
        left = self._max_trace - RESERVE - spent.exported
        if batch.final:
            return left + RESERVE
        detailed = int(self._max_trace * FULL_DETAIL) - spent.exported
        frames = batch.block(semconv.FRAME)
        floor = min(left, len(batch.operations) + (len(frames) if frames is not None else 0))
        return max(detailed, floor + int((left - floor) * DETAIL_SHARE))


def _reduce(batch: Batch, allowed: int, first_audio: int | None) -> int:
    """Leave out rows until ``allowed`` remain; returns how many remain."""
    frames = batch.block(semconv.FRAME)
    if frames is None or not len(frames):
        return _keep_first(((block, np.arange(len(block))) for block in batch.blocks), allowed)  # nothing to choose by
    owners = {id(block): _frame_of(block, frames) for block in batch.blocks if block is not frames}
    loose = sum(int((owner < 0).sum()) for owner in owners.values())  # rows of no frame here, such as prefills
    children = np.zeros(len(frames), np.int64)
    for owner in owners.values():
        children += np.bincount(owner[owner >= 0], minlength=len(frames))
    order = _by_value(frames, first_audio)
    if allowed < loose + len(frames):
        _drop_children(batch, frames, owners, np.zeros(len(frames), bool))
        kept = np.zeros(len(frames), bool)
        kept[order[: max(0, allowed - loose)]] = True
        _drop_frames(batch, frames, owners, kept)
        loose_of = ((block, np.flatnonzero(owners[id(block)] < 0)) for block in batch.blocks if block is not frames)
        return int(kept.sum()) + _keep_first(loose_of, allowed)
    affordable = np.cumsum(children[order]) <= allowed - loose - len(frames)
    detailed = np.zeros(len(frames), bool)
    detailed[order[affordable]] = True
    _drop_children(batch, frames, owners, detailed)
    return loose + len(frames) + int(children[detailed].sum())


def _by_value(frames: Block, first_audio: int | None) -> Places:
    """Places of the frames, the most telling first: the first chunk's, defective ones, then in turn the slowest and a
    spread.
    """
    count = len(frames)
    places = np.arange(count)
    numbers = np.asarray(frames.attributes.get(semconv.FRAME_INDEX.key, places))
    first = frames.start < first_audio if first_audio is not None else numbers < FIRST_FRAMES
    defect = frames.attributes.get(semconv.FRAME_DEFECT.key)
    defective = np.asarray(defect) != "" if isinstance(defect, np.ndarray) else np.zeros(count, bool)
    slowest = np.argsort(frames.start - frames.end, kind="stable")
    spread = np.argsort(places * GOLDEN % 1, kind="stable")
    turns = np.stack((slowest, spread), axis=1).reshape(-1)
    order = np.concatenate((places[first], places[defective], turns))
    _, at = np.unique(order, return_index=True)
    return order[np.sort(at)]


def _frame_of(block: Block, frames: Block) -> Places:
    """For each row the place of its parent among ``frames``, -1 when that is none of them."""
    by_id = np.argsort(frames.span_id)
    known = frames.span_id[by_id]
    at = np.minimum(np.searchsorted(known, block.parent_id), len(known) - 1)
    return np.where(known[at] == block.parent_id, by_id[at], -1)


def _drop_children(batch: Batch, frames: Block, owners: dict[int, Places], detailed: Mask) -> None:
    """Leave out the children of all frames but the ``detailed``, whose steps' statistics go onto the frame."""
    for block in batch.blocks:
        if block is frames:
            continue
        owner = owners[id(block)]
        block.exported = (owner < 0) | detailed[owner]
        if block.span is semconv.STEP:
            _summarise(frames, block, owner, detailed)


def _summarise(frames: Block, steps: Block, owner: Places, detailed: Mask) -> None:
    mine = owner >= 0
    seconds, owner = steps.seconds[mine], owner[mine]
    count = np.bincount(owner, minlength=len(frames))
    bare = ~detailed & (count > 0)
    mean = np.full(len(frames), np.nan)  # not a number: this frame has no such attribute
    mean[bare] = np.bincount(owner, seconds, len(frames))[bare] / count[bare]
    longest = np.full(len(frames), -np.inf)
    np.maximum.at(longest, owner, seconds)
    for key, values in ((semconv.STEP_MEAN.key, mean), (semconv.STEP_MAX.key, np.where(bare, longest, np.nan))):
        before = frames.attributes.get(key)  # of the steps that another clock timed
        frames.attributes[key] = np.where(bare, values, before) if isinstance(before, np.ndarray) else values


def _drop_frames(batch: Batch, frames: Block, owners: dict[int, Places], kept: Mask) -> None:
    """Leave out frames too. What exemplars would have named them for is then named after vibevoice.generate, their
    parent.
    """
    frames.exported = kept
    for block in batch.blocks:
        if block is not frames:
            owner = owners[id(block)]
            lost = (owner >= 0) & ~kept[owner]
            block.parent_id = np.where(lost, frames.parent_id[owner], block.parent_id)


def _keep_first(rows_of: Iterable[tuple[Block, Places]], allowed: int) -> int:
    """Of these rows leave out all past ``allowed``; returns how many remain."""
    left = allowed
    for block, rows in rows_of:
        if block.exported is None:
            block.exported = np.ones(len(block), bool)
        block.exported[rows[left:]] = False
        left -= len(rows[:left])
    return allowed - left
