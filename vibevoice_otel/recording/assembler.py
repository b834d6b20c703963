"""Facts to span records. Pure: reads a timeline's columns, builds a Batch; no SDK, no clock, no thread.

The rules of the tree stand here: every vibevoice.* record lies inside its parent in time, a frame runs from its
sampling's entry to the next frame's or the end, a step from the end of set_timesteps or of the step before to the
return of scheduler.step.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel import semconv
from vibevoice_otel.recording import finish, outcome
from vibevoice_otel.recording.first_audio import FirstAudioParts
from vibevoice_otel.recording.generation import Generation, joined
from vibevoice_otel.recording.labels import Bounds
from vibevoice_otel.recording.playback import Cadence, Playback
from vibevoice_otel.recording.records import AttributeValue, Batch, Block, Ids, IdSource, Labels, Operation
from vibevoice_otel.recording.timeline import Note, Run, Timeline
from vibevoice_otel.semconv import PCM_BYTES_PER_SECOND, SAMPLE_RATE_HZ, SILENCE_PEAK, Defect, Part

#: Cold operation -> part of the first-audio latency.
NOTE_PARTS = {
    semconv.QUEUE: Part.QUEUE,
    semconv.MODEL_LOAD: Part.MODEL_LOAD,
    semconv.VOICE_LOAD: Part.VOICE_LOAD,
    semconv.PREPROCESS: Part.PREPROCESS,
}
#: Ends of a stream that leave its listener waiting for more.
UNFINISHED = frozenset({semconv.Status.CANCELLED, semconv.Status.ERROR, semconv.Status.TIMEOUT})
#: Rates at which PCM is carried, in hertz, and how near to one of them a measured one must be.
PCM_RATES, RATE_TOLERANCE = (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000), 0.02
#: Frames that a generation may make past the end of speech: upstream finishes its window of six.
MOST_WITHHELD = 5
#: A timeline's columns that batches empty.
COLUMNS = ("notes", "sends", "audio_samples", "audio_low", "audio_high", "puts")
#: A run's.
RUN_COLUMNS = ("frames", "bases", "steps")


class Provisional:
    """Ids that count from 1, for a look at a request that is still open."""

    def __init__(self) -> None:
        self._next = 1

    def take(self, count: int) -> Ids:
        first, self._next = self._next, self._next + count
        return np.arange(first, self._next, dtype=np.uint64)


def _twin(run: Run) -> Run:
    """The same run with columns of its own; its times are the host's."""
    twin = copy.copy(run)
    twin.device = None
    for name in RUN_COLUMNS:
        setattr(twin, name, list(getattr(run, name)))
    twin.leaves = tuple(list(column) for column in run.leaves)
    return twin


class Assembly:
    """The assembler's memory of one request between its batches.

    Args:
        timeline: the request's facts; this object is the only one that removes from its columns.
        trace_id, root_id, server_id: of vibevoice.synthesize and its parent (0 for none).
        sampled, recording: the sampling decision of vibevoice.synthesize.
        ahead: seconds of audio that the modelled listener gathers before playing.
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
        ahead: float = 0.0,
    ) -> None:
        self.timeline = timeline
        self._trace = (trace_id, root_id, server_id, sampled, recording)
        self._bounds = bounds
        self._ids = ids
        self._generations: list[Generation] = []  # one for each run that has begun
        self._delivered = 0
        self._unread = 0  # of them, chunks on a device that were counted and not read
        self._samples = 0  # noted
        self._told = 0  # of them, those that batches have told
        self._sent = 0
        self._defects = dict.fromkeys(Defect.ALL, 0)
        self._defective: dict[int, str] = {}  # by number, frames that have no record yet
        self._after_disconnect = 0
        self._playback = Playback(ahead)
        self._cadence = Cadence()
        self._parts: FirstAudioParts | None = FirstAudioParts()
        self._first_send: int | None = None
        self._made = 0  # batches
        self._taking = False  # while one is made, what is known of the request is in two places

    # ---------------------------------------------------------------------------------------------------------- batches

    def drain(self) -> Batch | None:
        """The frames that are complete in a request that is still open; None when there are fewer than one."""
        cuts: dict[Generation, int] = {}
        handed, made = self._delivered + len(self.timeline.audio_samples), 0
        for generation in self._begun():
            run = generation.run
            last = len(run.frames) - 1
            if self.timeline.backlog is not None:  # each frame's audio will be looked at, a moment after it was made
                last = min(last, handed - made - generation.frames)
            if run.device is not None:  # a frame waits for the device, which may be behind
                placing = run.device.placing
                placing.collect()
                last = min(last, bisect_left(run.frames, placing.until) if placing.until is not None else last)
            made += generation.frames + len(run.frames)
            if last >= 1:
                cuts[generation] = run.frames[last]
        return self._batch(cuts, end=None) if cuts else None

    def finish(self, *, end: int, shutdown: bool = False) -> Batch:
        """Everything that is left, and the request itself, which ended at ``end`` (monotonic nanoseconds)."""
        for run in self.timeline.runs:
            if run.device is not None:
                run.device.placing.collect(final=True, **({"patience": 0.0} if shutdown else {}))
        return self._batch({}, end=end, shutdown=shutdown)

    def failed(self, end: int) -> Batch:
        """The request alone, as an error, where :meth:`finish` could not make its records."""
        batch = self._empty(final=True)
        batch.status, batch.error_type = semconv.Status.ERROR, semconv.ErrorType.ASSEMBLER
        status: dict[str, AttributeValue] = {semconv.STATUS.key: batch.status.value}
        batch.operations.append(
            self._operation(
                semconv.SYNTHESIZE, self.timeline.opened, end, batch.server_id, batch.root_id, status, batch.error_type
            )
        )
        return batch

    def peek(self, at: int) -> Batch | None:
        """What is known of the open request at ``at`` (monotonic nanoseconds) behind its batches so far
        (``Batch.earlier``), leaving everything as it is: for a live view.

        Ids but the trace's, the request's and its parent's are provisional, and what still runs ends at ``at``. Called
        from any thread; None where the recorder makes a batch of the same request at that moment.
        """
        if self._taking:
            return None
        twin = copy.copy(self)
        twin.timeline = copy.copy(self.timeline)
        for name in COLUMNS:
            setattr(twin.timeline, name, list(getattr(self.timeline, name)))
        twin.timeline.runs = [_twin(run) for run in self.timeline.runs]
        twin._ids = Provisional()
        twin._generations = [copy.copy(generation) for generation in self._generations]
        for generation, run in zip(twin._generations, twin.timeline.started, strict=False):
            generation.run, generation.ids = run, twin._ids
        twin._defects, twin._defective = dict(self._defects), dict(self._defective)
        twin._playback, twin._cadence = copy.copy(self._playback), copy.copy(self._cadence)
        twin._parts = copy.deepcopy(self._parts)
        if self._taking or self._made != twin._made:
            return None
        batch = twin._batch({}, end=at)
        batch.final, batch.status, batch.error_type = False, None, None
        return batch

    def _begun(self) -> list[Generation]:
        """The memory of each run that has begun, in the order in which they began."""
        runs = self.timeline.started
        known = {id(generation.run) for generation in self._generations}
        self._generations += [Generation(run, self.timeline.anchor, self._ids) for run in runs if id(run) not in known]
        return self._generations

    def _batch(self, cuts: dict[Generation, int], end: int | None, *, shutdown: bool = False) -> Batch:
        """What is complete: of each generation in ``cuts`` up to that moment, or all of all where the request has an
        ``end``.
        """
        self._taking = True
        batch = self._empty(final=end is not None)
        ends: dict[Generation, int] = {}  # of the generations, in the last batch
        made: list[tuple[Generation, list[Block]]] = []
        for generation in self._begun() if end is not None else cuts:
            run = generation.run
            limit = end if end is not None else cuts[generation]
            until = min(run.end, limit) if end is not None and run.end is not None else limit
            batch.device_id = run.device.device.id if run.device is not None else batch.device_id
            made.append((generation, generation.blocks(limit, until, self._parts, final=batch.final)))
            batch.generate_seconds += generation.seconds_until(until)
            ends[generation] = max(until, generation.device_until)  # the host may be done before the device
        self._notes(batch)
        self._tell_rate()
        self._audio(batch)
        self._mark_defects(made)
        batch.blocks = joined([blocks for _, blocks in made])
        self._sends(batch)
        if end is not None:
            self._close(batch, max((end, *ends.values())), ends, shutdown=shutdown)
        self._made += 1
        self._taking = False
        return batch

    def _empty(self, *, final: bool) -> Batch:
        trace_id, root_id, server_id, sampled, recording = self._trace
        return Batch(
            request=self.timeline.request, trace_id=trace_id, root_id=root_id, server_id=server_id, sampled=sampled,
            recording=recording, earlier=self._made,
            labels=self._labels(), operations=[], blocks=[], final=final, synthetic=self.timeline.asked.synthetic,
            warm_up=semconv.WarmUp.STARTUP in self.timeline.warm_up,
            profiled=self.timeline.profiled, on_end=self.timeline.used.on_end,
        )  # fmt: skip

    def _labels(self) -> Labels:
        used, asked = self.timeline.used, self.timeline.asked
        return Labels(
            voice=self._bounds.voice(used.voice if used.voice is not None else asked.voice),
            cfg=self._bounds.cfg(used.cfg),
            steps=self._bounds.steps(used.steps),
            text_length_range=semconv.text_length_range(asked.text_length)
            if asked.text_length is not None
            else semconv.OTHER,
        )

    def _operation(
        self,
        span: semconv.Span,
        start: int,
        end: int,
        parent: int,
        span_id: int | None = None,
        attributes: dict[str, AttributeValue] | None = None,
        error_type: str | None = None,
    ) -> Operation:
        to_wall = self.timeline.anchor.to_wall
        own = span_id if span_id is not None else int(self._ids.take(1)[0])
        return Operation(span, to_wall(start), to_wall(end), own, parent, attributes or {}, error_type)

    # --------------------------------------------------------------------------------------------- everything around it

    def _notes(self, batch: Batch) -> None:
        t = self.timeline
        notes: list[Note] = t.notes[:]
        del t.notes[: len(notes)]
        for note in notes:
            batch.operations.append(
                self._operation(
                    note.span,
                    note.start,
                    note.end,
                    batch.root_id,
                    attributes=note.attributes.copy(),
                    error_type=note.error_type,
                )
            )
            if note.span in NOTE_PARTS and self._parts is not None:
                self._parts.add(((note.start, note.end, NOTE_PARTS[note.span]),))

    def _audio(self, batch: Batch) -> None:
        t = self.timeline
        count = min(len(t.audio_samples), len(t.audio_low), len(t.audio_high))
        samples = t.audio_samples[:count]
        low, high = np.array(t.audio_low[:count]), np.array(t.audio_high[:count])
        unread = low > high
        self._unread += int(unread.sum())
        for column in (t.audio_samples, t.audio_low, t.audio_high):
            del column[:count]
        peak = np.maximum(-low, high)  # not a number where either is
        if not (unread | ((peak >= SILENCE_PEAK) & (peak <= 1.0))).all():
            nan = np.isnan(peak)
            self._defective_frames(
                batch,
                {
                    Defect.NAN: nan,
                    Defect.SILENT: ~nan & ~unread & (peak < SILENCE_PEAK),
                    Defect.CLIPPED: ~nan & (peak > 1.0),
                },
            )
        self._delivered += count
        self._samples += sum(samples)
        at_risk = sum(1 for run in t.runs if run.decoded and run.end is None) if not batch.final else 0
        told = max(self._told, self._spoken - at_risk * MOST_WITHHELD * max(samples, default=0))
        batch.audio_seconds, self._told = (told - self._told) / SAMPLE_RATE_HZ, told
        if t.cancelled is not None:
            puts = t.puts[:]
            del t.puts[: len(puts)]
            self._after_disconnect += sum(1 for put in puts if put > t.cancelled)
        elif not batch.final:
            del t.puts[: max(0, len(t.puts) - 1)]

    @property
    def _spoken(self) -> int:
        """Samples that were made to be heard: not those past the end of speech, which ``generate`` gives to nothing."""
        runs = self.timeline.runs
        return self._samples - sum(max(0, run.decoded - run.returned) for run in runs if run.returned is not None)

    def _defective_frames(self, batch: Batch, found: dict[str, NDArray[np.bool_]]) -> None:
        """Count defects, and remember of which frames until these have records: the k-th frame handed over is the k-th
        frame made.
        """
        batch.defects = {kind: int(mask.sum()) for kind, mask in found.items()}
        for kind, mask in found.items():
            self._defects[kind] += batch.defects[kind]
            self._defective.update(dict.fromkeys((np.nonzero(mask)[0] + self._delivered).tolist(), kind))

    def _mark_defects(self, made: list[tuple[Generation, list[Block]]]) -> None:
        """Say of the frames in ``made`` which are defective: the runs of a request follow one another, so do their
        frames.
        """
        if not self._defective:
            return
        first = {}
        total = 0
        for generation in self._generations:
            first[generation] = total
            total += generation.frames + len(generation.run.frames)
        for generation, blocks in made:
            number = first[generation]
            for frames in (block for block in blocks if block.span is semconv.FRAME):
                names = np.full(len(frames), "", dtype="<U7")
                for each in [each for each in self._defective if number <= each < number + generation.frames]:
                    row = each - number - (generation.frames - len(frames))
                    kind = self._defective.pop(each)
                    if row >= 0:
                        names[row] = kind
                frames.attributes[semconv.FRAME_DEFECT.key] = names

    def _tell_rate(self) -> None:
        """The rate of the PCM that a WebSocket carries, from the first chunks and the first sends: a service may
        resample.
        """
        t = self.timeline
        count = min(len(t.sends) // 3, len(t.audio_samples))
        if self._sent or t.byte_rate != PCM_BYTES_PER_SECOND or not count or not sum(t.audio_samples[:count]):
            return
        rate = sum(t.sends[2 : 3 * count : 3]) / 2 * SAMPLE_RATE_HZ / sum(t.audio_samples[:count])
        nearest = min(PCM_RATES, key=lambda each: abs(each - rate))
        if abs(nearest - rate) < RATE_TOLERANCE * nearest:
            t.byte_rate = nearest * 2

    def _sends(self, batch: Batch) -> None:
        t = self.timeline
        sends = t.sends[: len(t.sends) // 3 * 3]
        if self._first_send is None and sends:
            self._first_send = sends[1]
            batch.operations.append(self._operation(semconv.FIRST_CHUNK, t.begun, self._first_send, batch.root_id))
            if self._parts is not None:
                batch.first_audio_parts = self._parts.divide(t.begun, self._first_send)
                self._parts = None
        self._sent += len(sends) // 3
        if t.byte_rate is not None:
            batch.underruns = self._playback.play(sends, t.byte_rate)
        batch.sends = np.array(sends, np.int64).reshape(-1, 3)
        batch.chunk_intervals = self._cadence.take(batch.sends)
        batch.sends[:, :2] += t.anchor.wall - t.anchor.monotonic
        del t.sends[: len(sends)]

    def _close(self, batch: Batch, end: int, ends: dict[Generation, int], *, shutdown: bool) -> None:
        t = self.timeline
        spent = 0
        for generation, until in ends.items():
            run = generation.run
            assert run.start is not None
            spent += max(0, until - run.start)
            attributes: dict[str, AttributeValue] = {
                semconv.FRAMES.key: generation.frames,
                semconv.UNATTRIBUTED.key: max(0, until - run.start - generation.covered) / 1e9,
                **(run.device.summary if run.device is not None else {}),
            }
            batch.operations.append(
                self._operation(
                    semconv.GENERATE, run.start, max(run.start, until), batch.root_id, generation.span_id, attributes,
                    run.error,
                )
            )  # fmt: skip
        status, error = outcome.decide(t, shutdown=shutdown)
        batch.status, batch.error_type, batch.tenant = status, error, t.tenant
        if status in UNFINISHED:
            left = t.cancelled if status is semconv.Status.CANCELLED else t.web_closed
            batch.underruns += self._playback.give_up(left if left is not None else end)
        told = self._root_attributes(status, spent / 1e9, max(ends.values(), default=end))
        batch.operations.append(
            self._operation(semconv.SYNTHESIZE, t.opened, end, batch.server_id, batch.root_id, told, error)
        )

    def _root_attributes(
        self, status: semconv.Status, generated: float, generate_end: int
    ) -> dict[str, AttributeValue]:
        """Of a request whose runs took ``generated`` seconds together, the last of them until ``generate_end``."""
        t = self.timeline
        asked, used = t.asked, t.used
        asked_voice = self._bounds.voice(asked.voice)  # 'other' unless the service has it: it may be the spoken text
        audio, reason = self._spoken / SAMPLE_RATE_HZ, finish.decide(t)
        heard = self._playback if self._first_send is not None and t.byte_rate is not None else None
        cadence = self._cadence
        after = t.cancelled is not None and t.generate_start is not None and generate_end > t.cancelled
        made = sum(generation.frames for generation in self._generations)
        judged = self._delivered - self._unread  # chunks whose samples were read
        values: tuple[tuple[semconv.Attribute, AttributeValue | None], ...] = (
            (semconv.GEN_AI_OUTPUT, "speech"),
            (semconv.GEN_AI_MODEL, used.model),
            (semconv.MODEL_REVISION, used.revision),
            # Where none spoke, as the metrics name it: a trace search by voice then finds what the counters count.
            (semconv.VOICE, used.voice or asked_voice),
            (semconv.VOICE_REQUESTED, asked_voice if asked.voice and asked.voice != used.voice else None),
            (semconv.CFG, used.cfg),
            (semconv.CFG_REQUESTED, _differing(asked.cfg, used.cfg)),
            (semconv.STEPS, used.steps),
            (semconv.STEPS_REQUESTED, _differing(asked.steps, used.steps)),
            (semconv.STEPS_STICKY, used.steps_sticky or None),
            (semconv.TEXT_LENGTH, asked.text_length),
            (semconv.TEXT_WAIT, (t.begun - t.opened) / 1e9 or None),
            (semconv.TEXT, asked.text),
            (semconv.STATUS, status.value),
            (semconv.FINISH_REASON, reason.value if reason is not None else None),
            (semconv.FRAMES, made),
            (semconv.AUDIO_DURATION, audio),
            (semconv.REAL_TIME_FACTOR, generated / audio if audio and generated else None),
            (
                semconv.FIRST_AUDIO_LATENCY,
                (self._first_send - t.begun) / 1e9 if self._first_send is not None else None,
            ),
            (semconv.UNDERRUNS, heard.underruns if heard else None),
            (semconv.UNDERRUN_DURATION, (heard.stalled_seconds or None) if heard else None),
            (semconv.WORST_GAP, heard.worst_gap if heard else None),
            (semconv.CHUNK_JITTER, cadence.jitter),
            (semconv.SEND_BLOCKED, cadence.longest_send / 1e9 if self._first_send is not None else None),
            (semconv.FRAMES_SILENT, self._defects[Defect.SILENT] if judged or not self._delivered else None),
            (semconv.FRAMES_NAN, self._defects[Defect.NAN] if judged or not self._delivered else None),
            (semconv.FRAMES_CLIPPED, self._defects[Defect.CLIPPED] if judged or not self._delivered else None),
            (semconv.LEADING_SILENCE, t.leading_silence / SAMPLE_RATE_HZ if judged and not self._unread else None),
            (
                semconv.AFTER_DISCONNECT_DURATION,
                (generate_end - t.cancelled) / 1e9 if after and t.cancelled is not None else None,
            ),
            (semconv.AFTER_DISCONNECT_FRAMES, self._after_disconnect if after else None),
            (
                semconv.FRAMES_UNDELIVERED,
                max(0, made - (self._delivered if t.accepted is None else self._sent)) or None,
            ),
            (semconv.EVENT_LOOP_BLOCKED, t.events_blocked / 1e9 or None),
            (semconv.CLOSE_CODE, t.close_code),
            (semconv.SYNTHETIC, asked.synthetic or None),
            (semconv.WARM_UP, ",".join(sorted({met.value for met in t.warm_up})) or None),
            (semconv.PROFILED, t.profiled or None),
            (semconv.GENERATION_THREADS, t.streams_active),
        )
        found = {attribute.key: value for attribute, value in values if value is not None}
        return found if t.checks is None else {**found, **t.checks.attributes()}


def _differing(asked: str | None, used: float | None) -> str | None:
    """What was asked for where something else was used: the number, or 'other' (a client may put anything there, his
    text too).
    """
    if not asked or used is None:
        return None
    try:
        number = float(asked)
    except ValueError:
        return semconv.OTHER
    return None if number == used or (math.isnan(number) and math.isnan(used)) else asked
