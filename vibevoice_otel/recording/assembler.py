"""Facts to span records. Pure: reads a timeline's columns, builds a Batch; no SDK, no clock, no thread.

The rules of the tree stand here: every vibevoice.* record lies inside its parent in time, a frame runs from its sampling's entry
to the next frame's or the end, a step from the end of set_timesteps or of the step before to the return of scheduler.step.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from collections.abc import Iterable

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.guard.cardinality import Bounds
from vibevoice_otel.recording import outcome
from vibevoice_otel.recording.on_device import OnDevice, Timed
from vibevoice_otel.recording.parts import FirstAudioParts
from vibevoice_otel.recording.playback import Playback
from vibevoice_otel.recording.records import AttributeValue, Batch, Block, Column, Ids, IdSource, Ints, Labels, Operation
from vibevoice_otel.recording.timeline import Leaf, Note, Timeline
from vibevoice_otel.semconv import SAMPLE_RATE_HZ, SILENCE_PEAK, Branch, Defect, Part

#: Leaf -> (span, attributes, part of the first-audio latency).
LEAVES: dict[Leaf, tuple[semconv.Span, dict[str, str], str]] = {
    Leaf.PREFILL: (semconv.PREFILL, {}, Part.PREFILL),
    Leaf.LM_POSITIVE: (semconv.LM_FORWARD, {semconv.LM_BRANCH.key: Branch.POSITIVE}, Part.LM),
    Leaf.LM_NEGATIVE: (semconv.LM_FORWARD, {semconv.LM_BRANCH.key: Branch.NEGATIVE}, Part.LM),
    Leaf.DECODE: (semconv.DECODE, {}, Part.DECODE),
    Leaf.SEMANTIC_ENCODE: (semconv.SEMANTIC_ENCODE, {}, Part.LM),
    Leaf.CONNECTOR: (semconv.CONNECTOR, {}, Part.LM),
}
#: Cold operation -> part of the first-audio latency.
NOTE_PARTS = {
    semconv.QUEUE: Part.QUEUE,
    semconv.MODEL_LOAD: Part.MODEL_LOAD,
    semconv.VOICE_LOAD: Part.VOICE_LOAD,
    semconv.PREPROCESS: Part.PREPROCESS,
}
NO_TIMES: Ints = np.empty(0, np.int64)
#: A timeline's columns that batches empty.
COLUMNS = ("notes", "sends", "audio_samples", "audio_low", "audio_high", "frames", "bases", "steps", "puts")


class Provisional:
    """Ids that count from 1, for a look at a request that is still open."""

    def __init__(self) -> None:
        self._next = 1

    def take(self, count: int) -> Ids:
        first, self._next = self._next, self._next + count
        return np.arange(first, self._next, dtype=np.uint64)


class Assembly:
    """The assembler's memory of one request between its batches.

    Args:
        timeline: the request's facts; this object is the only one that removes from its columns.
        trace_id, root_id, server_id: of vibevoice.synthesize and its parent (0 for none).
        sampled, recording: the sampler's word on vibevoice.synthesize.
    """

    def __init__(
        self,
        timeline: Timeline,
        trace_id: int,
        root_id: int,
        server_id: int,
        bounds: Bounds,
        ids: IdSource,
        *,
        sampled: bool,
        recording: bool,
    ) -> None:
        self.timeline = timeline
        self._trace = (trace_id, root_id, server_id, sampled, recording)
        self._bounds = bounds
        self._ids = ids
        self._generate_id = 0
        self._frames = 0  # finished so far
        self._delivered = 0
        self._windows = 0
        self._samples = 0
        self._covered = 0  # ns under named leaves
        self._generated_until: int | None = None  # ns up to which generate_seconds has been reported
        self._sent = 0
        self._defects = dict.fromkeys(Defect.ALL, 0)
        self._defective: dict[int, str] = {}  # by number, frames that have no record yet
        self._after_disconnect = 0
        self._playback = Playback()
        self._parts: FirstAudioParts | None = FirstAudioParts(timeline.opened)
        self._first_send: int | None = None
        self._device_until = 0  # the latest moment of anything timed by the device

    def without_trace(self, root_id: int) -> None:
        """There is no valid trace (no SDK): records get ids all the same, and nothing is exported."""
        self._trace = (0, root_id, 0, False, False)

    # ------------------------------------------------------------------------------------------------------------ batches

    def drain(self) -> Batch | None:
        """The frames that are complete in a request that is still open; None when there are fewer than one."""
        frames = self.timeline.frames
        last = len(frames) - 1
        if self.timeline.backlog is not None:  # each frame's audio will be looked at, a moment after it was made: the frame waits for it
            last = min(last, self._delivered + len(self.timeline.audio_samples) - self._frames)
        if self.timeline.device is not None:  # a frame waits for the device, which may be behind
            placing = self.timeline.device.placing
            placing.collect()
            last = min(last, bisect_left(frames, placing.until) if placing.until is not None else last)
        if last < 1:
            return None
        return self._batch(cut=frames[last], end=None)

    def finish(self, *, end: int, shutdown: bool = False) -> Batch:
        """Everything that is left, and the request itself, which ended at ``end`` (monotonic nanoseconds)."""
        if self.timeline.device is not None:
            self.timeline.device.placing.collect(final=True, **({"patience": 0.0} if shutdown else {}))
        return self._batch(cut=None, end=end, shutdown=shutdown)

    def peek(self, at: int) -> Batch:
        """What is known of the open request at ``at`` (monotonic nanoseconds), leaving everything as it is: for a live view.

        Ids but the trace's, the request's and its parent's are provisional, and what still runs ends at ``at``. Called from any
        thread; while the recorder drains the same request at that moment, some of it may be missing.
        """
        twin = copy.copy(self)
        twin.timeline = copy.copy(self.timeline)
        twin.timeline.device = None
        for name in COLUMNS:
            setattr(twin.timeline, name, list(getattr(self.timeline, name)))
        twin.timeline.leaves = tuple(list(column) for column in self.timeline.leaves)
        twin._ids = Provisional()
        twin._defects, twin._playback, twin._parts = dict(self._defects), copy.copy(self._playback), copy.deepcopy(self._parts)
        batch = twin._batch(cut=None, end=at)
        batch.final, batch.status, batch.error_type = False, None, None
        return batch

    def _batch(self, cut: int | None, end: int | None, *, shutdown: bool = False) -> Batch:
        t = self.timeline
        trace_id, root_id, server_id, sampled, recording = self._trace
        batch = Batch(
            request=t.request, trace_id=trace_id, root_id=root_id, server_id=server_id, sampled=sampled, recording=recording,
            labels=self._labels(), operations=[], blocks=[], final=end is not None, synthetic=t.asked.synthetic,
        )  # fmt: skip
        limit = end if end is not None else cut
        assert limit is not None
        generate_end = min(t.generate_end if t.generate_end is not None else limit, limit)
        if t.generate_start is not None:
            self._generation(batch, limit, generate_end)
        if end is not None and self._device_until > generate_end:  # the host was done before the device
            generate_end, end = self._device_until, max(end, self._device_until)
        self._notes(batch)
        self._audio(batch)
        self._sends(batch)
        if end is not None:
            self._close(batch, end, generate_end, shutdown=shutdown)
        return batch

    def _labels(self) -> Labels:
        used, asked = self.timeline.used, self.timeline.asked
        return Labels(
            voice=self._bounds.voice(used.voice if used.voice is not None else asked.voice),
            cfg=self._bounds.cfg(used.cfg),
            steps=self._bounds.steps(used.steps),
            text_length_range=semconv.text_length_range(asked.text_length or 0),
        )

    def _new_id(self) -> int:
        return int(self._ids.take(1)[0])

    def _wall(self, times: Ints) -> Ints:
        return times + (self.timeline.anchor.wall - self.timeline.anchor.monotonic)

    def _operation(self, span: semconv.Span, start: int, end: int, parent: int, span_id: int | None = None) -> Operation:
        to_wall = self.timeline.anchor.to_wall
        return Operation(span, to_wall(start), to_wall(end), span_id if span_id is not None else self._new_id(), parent)

    # --------------------------------------------------------------------------------------------------------- generation

    def _generation(self, batch: Batch, limit: int, generate_end: int) -> None:
        t = self.timeline
        assert t.generate_start is not None
        if not self._generate_id:
            self._generate_id = self._new_id()
        starts = _take(t.frames, limit, keep_equal=not batch.final)
        bases = _take(t.bases, limit)
        step_ends = _take(t.steps, limit)
        frame_starts = starts if len(starts) else bases  # a model whose frame hook is missing still shows its steps
        until = generate_end if batch.final else limit
        ends = np.append(frame_starts[1:], max(until, int(frame_starts[-1]))) if len(frame_starts) else NO_TIMES
        frame_ids = self._ids.take(len(frame_starts))
        partial: dict[str, AttributeValue] = {} if batch.final else {semconv.STREAM_PARTIAL.key: True}
        on_device = OnDevice(t.device.placing.placed if t.device is not None else None)
        batch.device_id = t.device.device_id if t.device is not None else None
        frames = on_device.frames(frame_starts, ends)

        frame_of_step = np.searchsorted(frame_starts, step_ends, "right") - 1
        inside = frame_of_step >= 0
        step_ends, frame_of_step = step_ends[inside], frame_of_step[inside]
        if len(step_ends):
            first_of_frame = np.searchsorted(frame_of_step, np.arange(len(frame_starts)))
            index = np.arange(len(step_ends)) - first_of_frame[frame_of_step]
            base = _base_of_frame(frame_starts, ends, bases)
            before = np.where(index == 0, base[frame_of_step], np.concatenate((step_ends[:1], step_ends[:-1])))
            # A base that came after the first step is not that step's: its set_timesteps went unseen.
            step_starts = np.where(before <= step_ends, before, frame_starts[frame_of_step])
            steps = on_device.steps(step_starts, step_ends, frame_of_step)
            # A frame's own preparation, under the frame's name, and its steps.
            self._covered += int((steps.starts - frames.starts[frame_of_step])[index == 0].sum())
            self._covered += int((steps.ends - steps.starts).sum())
            if frame_of_step[0] == 0:
                self._early(((int(steps.starts[0]), int(steps.ends[frame_of_step == 0][-1]), Part.DIFFUSION),))
            self._blocks(batch, semconv.STEP, steps, frame_ids[frame_of_step], {semconv.STEP_INDEX.key: index, **partial})
        if len(frame_starts):
            per_frame = np.bincount(frame_of_step, minlength=len(frame_starts)).astype(np.int64)
            numbers = np.arange(self._frames, self._frames + len(frame_starts))
            attributes: dict[str, Column] = {semconv.FRAME_INDEX.key: numbers, semconv.FRAME_STEPS.key: per_frame, **partial}
            attributes.update(frames.attributes)
            batch.blocks.append(
                Block(
                    semconv.FRAME,
                    self._wall(frames.starts),
                    self._wall(frames.ends),
                    frame_ids,
                    np.full(len(frame_starts), self._generate_id, np.uint64),
                    attributes,
                )
            )
            self._frames += len(frame_starts)
        for leaf in Leaf:
            self._leaf(batch, leaf, limit, frame_starts, frame_ids, partial, on_device)
        self._device_until = max(self._device_until, on_device.last)
        since = self._generated_until if self._generated_until is not None else t.generate_start
        batch.generate_seconds = max(0, until - since) / 1e9
        self._generated_until = until

    def _leaf(
        self,
        batch: Batch,
        leaf: Leaf,
        limit: int,
        frame_starts: Ints,
        frame_ids: Ids,
        partial: dict[str, AttributeValue],
        on_device: OnDevice,
    ) -> None:
        column = self.timeline.leaves[leaf]
        pairs = _take(column, limit, stride=2).reshape(-1, 2)
        if not len(pairs):
            return
        span, fixed, part = LEAVES[leaf]
        starts, ends = pairs[:, 0], pairs[:, 1]
        parents = np.full(len(starts), self._generate_id, np.uint64)
        frame = np.searchsorted(frame_starts, starts, "right") - 1
        attributes: dict[str, Column] = {**fixed, **partial}
        if span is semconv.PREFILL:
            attributes = {semconv.WINDOW_INDEX.key: np.arange(self._windows, self._windows + len(starts))}
            self._windows += len(starts)
        elif len(frame_starts):
            parents[frame >= 0] = frame_ids[frame[frame >= 0]]
        timed = on_device.leaf(leaf, starts, ends, frame)
        self._covered += int((timed.ends - timed.starts).sum())
        self._early((int(s), int(e), part) for s, e in zip(timed.starts[:4], timed.ends[:4], strict=True))
        self._blocks(batch, span, timed, parents, attributes)

    def _blocks(self, batch: Batch, span: semconv.Span, timed: Timed, parents: Ids, attributes: dict[str, Column]) -> None:
        """A block of the records that the host timed, and one of those that the device did."""
        starts, ends, ids = self._wall(timed.starts), self._wall(timed.ends), self._ids.take(len(timed.starts))
        for rows, own, measures in timed.parts():
            values = {k: v[rows] if isinstance(v, np.ndarray) else v for k, v in attributes.items()}
            batch.blocks.append(Block(span, starts[rows], ends[rows], ids[rows], parents[rows], {**values, **own}, measures=dict(measures)))

    # -------------------------------------------------------------------------------------------------- everything around it

    def _notes(self, batch: Batch) -> None:
        t = self.timeline
        notes: list[Note] = t.notes[:]
        del t.notes[: len(notes)]
        _, root_id, *_ = self._trace
        for note in notes:
            operation = self._operation(note.span, note.start, note.end, root_id)
            operation.attributes.update(note.attributes)
            operation.error_type = note.error_type
            batch.operations.append(operation)
            if note.span in NOTE_PARTS:
                self._early(((note.start, note.end, NOTE_PARTS[note.span]),))

    def _early(self, intervals: Iterable[tuple[int, int, str]]) -> None:
        if self._parts is not None:
            self._parts.add(intervals)

    def _audio(self, batch: Batch) -> None:
        t = self.timeline
        count = min(len(t.audio_samples), len(t.audio_low), len(t.audio_high))
        samples = t.audio_samples[:count]
        low, high = np.array(t.audio_low[:count]), np.array(t.audio_high[:count])
        for column in (t.audio_samples, t.audio_low, t.audio_high):
            del column[:count]
        nan = np.isnan(low) | np.isnan(high)
        peak = np.maximum(np.abs(np.where(nan, 0.0, low)), np.abs(np.where(nan, 0.0, high)))
        found = {Defect.NAN: nan, Defect.SILENT: ~nan & (peak < SILENCE_PEAK), Defect.CLIPPED: ~nan & (peak > 1.0)}
        batch.defects = {kind: int(mask.sum()) for kind, mask in found.items()}
        for kind, number in batch.defects.items():
            self._defects[kind] += number
        frames = batch.block(semconv.FRAME)
        for kind, mask in found.items():  # the k-th frame handed over is the k-th frame made
            self._defective.update(dict.fromkeys((np.nonzero(mask)[0] + self._delivered).tolist(), kind))
        if frames is not None and self._defective:
            names = np.full(len(frames), "", dtype="<U7")
            for number in [number for number in self._defective if number < self._frames]:
                row = number - (self._frames - len(frames))
                kind = self._defective.pop(number)
                if row >= 0:
                    names[row] = kind
            frames.attributes[semconv.FRAME_DEFECT.key] = names
        self._delivered += count
        self._samples += sum(samples)
        batch.audio_seconds = sum(samples) / SAMPLE_RATE_HZ
        if t.cancelled is not None:
            puts = t.puts[:]
            del t.puts[: len(puts)]
            self._after_disconnect += sum(1 for put in puts if put > t.cancelled)
        elif not batch.final:
            del t.puts[: max(0, len(t.puts) - 1)]

    def _sends(self, batch: Batch) -> None:
        t = self.timeline
        sends = t.sends[: len(t.sends) // 3 * 3]
        if self._first_send is None and sends:
            self._first_send = sends[1]
            batch.operations.append(self._operation(semconv.FIRST_CHUNK, t.opened, self._first_send, self._trace[1]))
            if self._parts is not None:
                batch.first_audio_parts = self._parts.divide(self._first_send)
                self._parts = None
        self._sent += len(sends) // 3
        batch.underruns = self._playback.play(sends)
        batch.sends = np.array(sends, np.int64).reshape(-1, 3)
        batch.sends[:, :2] = self._wall(batch.sends[:, :2])
        del t.sends[: len(sends)]

    def _close(self, batch: Batch, end: int, generate_end: int, *, shutdown: bool) -> None:
        t = self.timeline
        root_id, server_id = self._trace[1:3]
        if t.generate_start is not None:
            generate = self._operation(semconv.GENERATE, t.generate_start, max(t.generate_start, generate_end), root_id, self._generate_id)
            generate.error_type = t.generate_error
            uncovered = max(0, generate_end - t.generate_start - self._covered) / 1e9
            generate.attributes = {semconv.FRAMES.key: self._frames, semconv.UNATTRIBUTED.key: uncovered}
            if t.device is not None:
                generate.attributes.update(t.device.summary)
            batch.operations.append(generate)
        status, error = outcome.decide(t, shutdown=shutdown)
        batch.status, batch.error_type = status, error
        root = self._operation(semconv.SYNTHESIZE, t.opened, end, server_id, root_id)
        root.error_type = error
        root.attributes = self._root_attributes(status, generate_end)
        batch.operations.append(root)

    def _asked_voice(self) -> str | None:
        """The voice asked for when the service has it, else 'other': a client may put anything there, the spoken text too."""
        return self._bounds.voice(self.timeline.asked.voice)

    def _root_attributes(self, status: semconv.Status, generate_end: int) -> dict[str, AttributeValue]:
        t = self.timeline
        asked, used = t.asked, t.used
        audio = self._samples / SAMPLE_RATE_HZ
        generated = (generate_end - t.generate_start) / 1e9 if t.generate_start is not None else 0.0
        after = t.cancelled is not None and t.generate_start is not None and generate_end > t.cancelled
        values: dict[semconv.Attribute, AttributeValue | None] = {
            semconv.GEN_AI_OUTPUT: "speech",
            semconv.GEN_AI_MODEL: used.model,
            semconv.VOICE: used.voice,
            semconv.VOICE_REQUESTED: self._asked_voice() if asked.voice and asked.voice != used.voice else None,
            semconv.CFG: used.cfg,
            semconv.CFG_REQUESTED: _differing(asked.cfg, used.cfg),
            semconv.STEPS: used.steps,
            semconv.STEPS_REQUESTED: _differing(asked.steps, used.steps),
            semconv.STEPS_STICKY: used.steps_sticky or None,
            semconv.TEXT_LENGTH: asked.text_length,
            semconv.TEXT: asked.text,
            semconv.STATUS: status.value,
            semconv.FRAMES: self._frames,
            semconv.AUDIO_DURATION: audio,
            semconv.REAL_TIME_FACTOR: generated / audio if audio and generated else None,
            semconv.FIRST_AUDIO_LATENCY: (self._first_send - t.opened) / 1e9 if self._first_send is not None else None,
            semconv.UNDERRUNS: self._playback.underruns,
            semconv.UNDERRUN_DURATION: self._playback.stalled_seconds or None,
            semconv.FRAMES_SILENT: self._defects[Defect.SILENT],
            semconv.FRAMES_NAN: self._defects[Defect.NAN],
            semconv.FRAMES_CLIPPED: self._defects[Defect.CLIPPED],
            semconv.LEADING_SILENCE: t.leading_silence / SAMPLE_RATE_HZ if self._delivered else None,
            semconv.AFTER_DISCONNECT_DURATION: (generate_end - t.cancelled) / 1e9 if after and t.cancelled is not None else None,
            semconv.AFTER_DISCONNECT_FRAMES: self._after_disconnect if after else None,
            semconv.FRAMES_UNDELIVERED: max(0, self._frames - (self._delivered if t.accepted is None else self._sent)) or None,
            semconv.EVENT_LOOP_BLOCKED: t.events_blocked / 1e9 or None,
            semconv.CLOSE_CODE: t.close_code,
            semconv.SYNTHETIC: asked.synthetic or None,
            semconv.GENERATION_THREADS: t.streams_active,
        }
        return {attribute.key: value for attribute, value in values.items() if value is not None}


def _take(column: list[int], limit: int, *, stride: int = 1, keep_equal: bool = False) -> Ints:
    """Remove and return what ended by ``limit``, whole groups of ``stride`` only.

    With ``keep_equal`` a value equal to the limit stays: the frame that begins there is not finished.
    """
    values = np.array(column[: len(column) // stride * stride], np.int64)
    whole = int(np.searchsorted(values[stride - 1 :: stride], limit, "left" if keep_equal else "right")) * stride
    del column[:whole]
    return values[:whole]


def _base_of_frame(frame_starts: Ints, frame_ends: Ints, bases: Ints) -> Ints:
    """The first base inside each frame, else the frame's start (a scheduler whose set_timesteps is not hooked)."""
    if not len(bases):
        return frame_starts
    at = np.minimum(np.searchsorted(bases, frame_starts), len(bases) - 1)
    candidate = bases[at]
    return np.where((candidate >= frame_starts) & (candidate <= frame_ends), candidate, frame_starts)


def _differing(asked: str | None, used: float | None) -> str | None:
    """What was asked for where something else was used: the number, or 'other' (a client may put anything there, his text too)."""
    if not asked or used is None:
        return None
    try:
        number = float(asked)
    except ValueError:
        return semconv.OTHER
    return None if number == used or (math.isnan(number) and math.isnan(used)) else asked
