"""A generation's columns to blocks of records: frames, their diffusion steps, decodes, passes and prefills. Pure, as
assembler.py is.

A frame runs from its sampling's entry to the next frame's or the end, a step from the end of set_timesteps or of the
step before to the return of scheduler.step. Everything is computed for all rows of all kinds at once: of a short
request the calls cost more than the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel import semconv
from vibevoice_otel.recording.clock import Anchor
from vibevoice_otel.recording.device.times import OnDevice, Timed
from vibevoice_otel.recording.first_audio import FirstAudioParts
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.records import AttributeValue, Block, Column, Ids, IdSource, Ints
from vibevoice_otel.recording.timeline import Run
from vibevoice_otel.semconv import Branch, Part

#: Leaf -> (span, attributes, part of the first-audio latency).
LEAVES: dict[Leaf, tuple[semconv.Span, dict[str, str], str]] = {
    Leaf.PREFILL: (semconv.PREFILL, {}, Part.PREFILL),
    Leaf.LM_POSITIVE: (semconv.LM_FORWARD, {semconv.LM_BRANCH.key: Branch.POSITIVE}, Part.LM),
    Leaf.LM_NEGATIVE: (semconv.LM_FORWARD, {semconv.LM_BRANCH.key: Branch.NEGATIVE}, Part.LM),
    Leaf.DECODE: (semconv.DECODE, {}, Part.DECODE),
    Leaf.SEMANTIC_ENCODE: (semconv.SEMANTIC_ENCODE, {}, Part.LM),
    Leaf.CONNECTOR: (semconv.CONNECTOR, {}, Part.LM),
}
#: Intervals of a leaf that may lie before the first audio.
EARLY = 4
NO_TIMES: Ints = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What all blocks of a batch share."""

    on_device: OnDevice
    frame_starts: Ints
    frame_ends: Ints
    frame_ids: Ids
    shared: dict[str, AttributeValue]
    parts: FirstAudioParts | None


class Generation:
    """The memory of one run between the request's batches.

    Args:
        run: whose columns of frames, bases, steps and leaves this object empties.
        anchor: the request's, from the host's clock to the wall's.
        ids: where span ids come from.
    """

    def __init__(self, run: Run, anchor: Anchor, ids: IdSource) -> None:
        self.run = run
        self.ids = ids
        self._to_wall = anchor.wall - anchor.monotonic
        self.span_id = 0  # of vibevoice.generate, chosen when the first record needs its parent
        self.frames = 0  # finished so far
        self.covered = 0  # ns under named leaves
        self.device_until = 0  # the latest moment of anything timed by the device
        self._windows = 0
        self._reported_until: int | None = None

    def seconds_until(self, until: int) -> float:
        """Seconds spent generating up to ``until`` that have not been reported yet."""
        since = self._reported_until if self._reported_until is not None else self.run.start
        self._reported_until = until
        return max(0, until - since) / 1e9 if since is not None else 0.0

    def blocks(self, limit: int, until: int, parts: FirstAudioParts | None, *, final: bool) -> list[Block]:
        """Blocks of what was done by ``limit``, the last frame ending at ``until`` (monotonic ns); ``parts`` hears of
        the first.
        """
        if not self.span_id:
            self.span_id = int(self.ids.take(1)[0])
        starts, bases, step_ends, *leaves = self._take(limit, final=final)
        frame_starts = starts if len(starts) else bases  # a model whose frame hook is missing still shows its steps
        ends = np.append(frame_starts[1:], max(until, int(frame_starts[-1]))) if len(frame_starts) else NO_TIMES
        shared: dict[str, AttributeValue] = {} if final else {semconv.STREAM_PARTIAL.key: True}
        batch = _Batch(
            OnDevice(self.run.device.placing.placed if self.run.device is not None else None),
            frame_starts,
            ends,
            self.ids.take(len(frame_starts)),
            shared,
            parts,
        )
        frames = batch.on_device.frames(frame_starts, ends)
        frame = np.searchsorted(frame_starts, step_ends, "right") - 1
        if len(frame) and frame[0] < 0:  # steps of no frame that is known
            step_ends, frame = step_ends[frame >= 0], frame[frame >= 0]
        steps_of = np.bincount(frame, minlength=len(frame_starts))
        made = list(self._steps(batch, frames, bases, step_ends, frame, steps_of)) if len(frame) else []
        if len(frame_starts):
            numbers = np.arange(self.frames, self.frames + len(frame_starts))
            attributes: dict[str, Column] = {
                semconv.FRAME_INDEX.key: numbers, semconv.FRAME_STEPS.key: steps_of, **shared, **frames.attributes,
            }  # fmt: skip
            parents = np.full(len(frame_starts), self.span_id, np.uint64)
            made.append(
                Block(
                    semconv.FRAME,
                    self._wall(frames.starts),
                    self._wall(frames.ends),
                    batch.frame_ids,
                    parents,
                    attributes,
                    measures=dict(frames.measures),
                )
            )
            self.frames += len(frame_starts)
        made.extend(self._leaves(batch, leaves))
        self.device_until = max(self.device_until, batch.on_device.last)
        return made

    def _take(self, limit: int, *, final: bool) -> list[Ints]:
        """Remove what ended by ``limit``: frames, bases, steps and then each leaf's (start, end).

        A frame that begins at the limit of a batch that is not the last is not finished.
        """
        t = self.run
        taken: list[int] = []
        ends: list[int] = []
        for column, stride in ((t.frames, 1), (t.bases, 1), (t.steps, 1), *((leaf, 2) for leaf in t.leaves)):
            count = len(column) // stride * stride  # the thread that generates may be appending
            past = limit - 1 if column is t.frames and not final else limit
            while count and column[count - 1] > past:
                count -= stride
            taken += column[:count]
            del column[:count]
            ends.append(len(taken))
        columns = np.array(taken, np.int64)  # one conversion for all
        return [columns[first:last] for first, last in pairwise([0, *ends])]

    def _wall(self, times: Ints) -> Ints:
        return times + self._to_wall

    def _steps(
        self,
        batch: _Batch,
        frames: Timed,
        bases: Ints,
        step_ends: Ints,
        frame: NDArray[np.intp],
        steps_of: NDArray[np.intp],
    ) -> Iterator[Block]:
        """Steps, ``frame`` the place of each one's frame, of which there are ``steps_of`` each."""
        first_of = np.cumsum(steps_of) - steps_of
        index = np.arange(len(frame)) - first_of[frame]
        firsts = first_of[steps_of > 0]
        before = np.empty_like(step_ends)
        before[1:] = step_ends[:-1]
        before[firsts] = _base_of_frame(batch.frame_starts, batch.frame_ends, bases)[frame[firsts]]
        # A base that came after the first step is not that step's: its set_timesteps went unseen.
        starts = np.where(before <= step_ends, before, batch.frame_starts[frame])
        steps = batch.on_device.steps(starts, step_ends, frame)
        # A frame's own preparation, under the frame's name, and its steps.
        self.covered += int(
            (steps.starts[firsts] - frames.starts[frame[firsts]]).sum() + (steps.ends - steps.starts).sum()
        )
        if batch.parts is not None and frame[0] == 0:
            batch.parts.add(((int(steps.starts[0]), int(steps.ends[steps_of[0] - 1]), Part.DIFFUSION),))
        ids = self.ids.take(len(frame))
        yield from self._split(
            semconv.STEP, steps, ids, batch.frame_ids[frame], {semconv.STEP_INDEX.key: index, **batch.shared}
        )

    def _leaves(self, batch: _Batch, columns: list[Ints]) -> Iterator[Block]:
        """Each leaf's column of (start, end), all computed together."""
        counts = [len(column) // 2 for column in columns]
        if not any(counts):
            return
        pairs = np.concatenate(columns).reshape(-1, 2)
        starts, ends = pairs[:, 0], pairs[:, 1]
        frame = np.searchsorted(batch.frame_starts, starts, "right") - 1
        timed = batch.on_device.leaves(counts, starts, ends, frame)
        self.covered += int((timed.ends - timed.starts).sum())
        parents = np.full(len(starts), self.span_id, np.uint64)
        if len(batch.frame_ids):
            inside = frame >= 0
            inside[: counts[Leaf.PREFILL]] = False
            np.copyto(parents, batch.frame_ids[frame], where=inside)
        ids = self.ids.take(len(starts))
        first = 0
        for leaf, count in zip(Leaf, counts, strict=True):
            if not count:
                continue
            rows = slice(first, first + count)
            first += count
            span, fixed, part = LEAVES[leaf]
            attributes: dict[str, Column] = {**fixed, **batch.shared}
            if leaf is Leaf.PREFILL:
                attributes = {semconv.WINDOW_INDEX.key: np.arange(self._windows, self._windows + count)}
                self._windows += count
            own = timed.rows(rows)
            if batch.parts is not None:
                early = zip(own.starts[:EARLY].tolist(), own.ends[:EARLY].tolist(), strict=True)
                batch.parts.add((start, end, part) for start, end in early)
            yield from self._split(span, own, ids[rows], parents[rows], attributes)

    def _split(
        self, span: semconv.Span, timed: Timed, ids: Ids, parents: Ids, attributes: dict[str, Column]
    ) -> Iterator[Block]:
        """A block of the records that the host timed, and one of those that the device did."""
        starts, ends = self._wall(timed.starts), self._wall(timed.ends)
        for rows, own, measures in timed.parts():
            if rows is None:
                yield Block(span, starts, ends, ids, parents, attributes, measures=dict(measures))
                return
            values = {k: v[rows] if isinstance(v, np.ndarray) else v for k, v in attributes.items()}
            yield Block(
                span, starts[rows], ends[rows], ids[rows], parents[rows], {**values, **own}, measures=dict(measures)
            )


def _base_of_frame(frame_starts: Ints, frame_ends: Ints, bases: Ints) -> Ints:
    """The first base inside each frame, else the frame's start (a scheduler whose set_timesteps is not hooked)."""
    if not len(bases):
        return frame_starts
    at = np.minimum(np.searchsorted(bases, frame_starts), len(bases) - 1)
    candidate = bases[at]
    return np.where((candidate >= frame_starts) & (candidate <= frame_ends), candidate, frame_starts)


def joined(runs: list[list[Block]]) -> list[Block]:
    """The blocks of all ``runs``, those of one kind made one: sinks see at most one block of a kind and clock."""
    if len(runs) == 1:
        return runs[0]
    alike: dict[tuple[object, ...], list[Block]] = {}
    for block in (block for blocks in runs for block in blocks):
        fixed = tuple(sorted((k, str(v)) for k, v in block.attributes.items() if not isinstance(v, np.ndarray)))
        alike.setdefault((block.span.name, fixed, *sorted(block.attributes), *sorted(block.measures)), []).append(block)
    return [_one(blocks) if len(blocks) > 1 else blocks[0] for blocks in alike.values()]


def _one(blocks: list[Block]) -> Block:
    first = blocks[0]

    def column(key: str) -> Column:
        if not isinstance(first.attributes[key], np.ndarray):
            return first.attributes[key]
        return np.concatenate([np.asarray(block.attributes[key]) for block in blocks])

    return Block(
        first.span,
        np.concatenate([block.start for block in blocks]),
        np.concatenate([block.end for block in blocks]),
        np.concatenate([block.span_id for block in blocks]),
        np.concatenate([block.parent_id for block in blocks]),
        {key: column(key) for key in first.attributes},
        measures={key: np.concatenate([block.measures[key] for block in blocks]) for key in first.measures},
    )
