"""A generation's columns to blocks of records: frames, their diffusion steps, decodes, passes and prefills. Pure, as
assembler.py is.

A frame runs from its sampling's entry to the next frame's or the end, a step from the end of set_timesteps or of the
step before to the return of scheduler.step. Everything is computed for all rows of all kinds at once: of a short
request the calls cost more than the rows.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel import semconv
from vibevoice_otel.recording.clock import Anchor
from vibevoice_otel.recording.device.times import OnDevice, by_clock
from vibevoice_otel.recording.first_audio import FirstAudioParts
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.records import Block, Column, Ids, IdSource, Ints
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
        entries = starts if len(starts) else bases  # a model whose frame hook is missing still shows its steps
        ends = np.append(entries[1:], max(until, int(entries[-1]))) if len(entries) else NO_TIMES
        frames = Block(
            semconv.FRAME, entries, ends, self.ids.take(len(entries)), np.full(len(entries), self.span_id, np.uint64),
            {semconv.FRAME_INDEX.key: np.arange(self.frames, self.frames + len(entries))},
        )  # fmt: skip
        self.frames += len(frames)
        steps, frame = self._steps(frames, bases, step_ends)
        on_device = OnDevice(self.run.device.placing.placed if self.run.device is not None else None)
        on_device.frames(frames)
        made = []
        if len(steps):
            by_device = on_device.steps(steps, frame)
            firsts = steps.attributes[semconv.STEP_INDEX.key] == 0
            # A frame's own preparation, under the frame's name, and its steps.
            self.covered += int(
                (steps.start[firsts] - frames.start[frame[firsts]]).sum() + (steps.end - steps.start).sum()
            )
            if parts is not None and frame[0] == 0:
                parts.add(((int(steps.start[0]), int(steps.end[frame == 0][-1]), Part.DIFFUSION),))
            made += by_clock(steps, by_device)
        if len(frames):
            made.append(frames)
        made += self._leaves(on_device, entries, frames.span_id, leaves, parts)
        for block in made:
            block.start, block.end = block.start + self._to_wall, block.end + self._to_wall
            if not final:
                block.attributes[semconv.STREAM_PARTIAL.key] = True
        self.device_until = max(self.device_until, on_device.last)
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

    def _steps(self, frames: Block, bases: Ints, ends: Ints) -> tuple[Block, NDArray[np.intp]]:
        """Steps by the host's clock, and the place of each one's frame. Steps of no known frame are left out."""
        frame = np.searchsorted(frames.start, ends, "right") - 1
        if len(frame) and frame[0] < 0:
            ends, frame = ends[frame >= 0], frame[frame >= 0]
        steps_of = np.bincount(frame, minlength=len(frames))
        frames.attributes[semconv.FRAME_STEPS.key] = steps_of
        first_of = np.cumsum(steps_of) - steps_of
        firsts = first_of[steps_of > 0]
        before = np.empty_like(ends)
        before[1:] = ends[:-1]
        before[firsts] = _base_of_frame(frames.start, frames.end, bases)[frame[firsts]]
        # A base that came after the first step is not that step's: its set_timesteps went unseen.
        starts = np.where(before <= ends, before, frames.start[frame])
        index = np.arange(len(frame)) - first_of[frame]
        ids, parents = self.ids.take(len(frame)), frames.span_id[frame]
        return Block(semconv.STEP, starts, ends, ids, parents, {semconv.STEP_INDEX.key: index}), frame

    def _leaves(
        self, on_device: OnDevice, entries: Ints, frame_ids: Ids, columns: list[Ints], parts: FirstAudioParts | None
    ) -> list[Block]:
        """Each leaf's column of (start, end), all computed together; ``entries`` and ``frame_ids`` are the frames'."""
        counts = [len(column) // 2 for column in columns]
        if not any(counts):
            return []
        pairs = np.concatenate(columns).reshape(-1, 2)
        frame = np.searchsorted(entries, pairs[:, 0], "right") - 1
        parents = np.full(len(pairs), self.span_id, np.uint64)
        if len(frame_ids):
            inside = frame >= 0
            inside[: counts[Leaf.PREFILL]] = False
            np.copyto(parents, frame_ids[frame], where=inside)
        # All leaves as one, until each is cut out below and gets its own name.
        every = Block(semconv.PREFILL, pairs[:, 0], pairs[:, 1], self.ids.take(len(pairs)), parents)
        by_device = on_device.leaves(every, counts, frame)
        self.covered += int((every.end - every.start).sum())
        made: list[Block] = []
        for leaf, (first, last) in zip(Leaf, pairwise(accumulate(counts, initial=0)), strict=True):
            if first == last:
                continue
            own = every.take(slice(first, last))
            own.span, fixed, part = LEAVES[leaf]
            own.attributes |= fixed
            if leaf is Leaf.PREFILL:
                own.attributes[semconv.WINDOW_INDEX.key] = np.arange(self._windows, self._windows + last)
                self._windows += last
            if parts is not None:
                early = zip(own.start[:EARLY].tolist(), own.end[:EARLY].tolist(), strict=True)
                parts.add((start, end, part) for start, end in early)
            made += by_clock(own, by_device[first:last])
        return made


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
