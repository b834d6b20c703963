"""The one table: which span record feeds which instrument, with which attributes. No other code records a latency.

It reads every record before any sampler or budget, so counts and sums are exact whatever is exported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel import forking, semconv
from vibevoice_otel.metrics.instruments import Attributes, Instruments
from vibevoice_otel.metrics.ledger import Ledger
from vibevoice_otel.recording.device.limits import FrameLimits
from vibevoice_otel.recording.records import Batch, Block, Ids, Ints, Labels, Operation
from vibevoice_otel.sampling.share import in_share
from vibevoice_otel.semconv import Clock, Metric, SharePart, Status


@dataclass(frozen=True, slots=True)
class Row:
    """A span record's duration goes to ``metric`` with the attributes that ``labels`` picks."""

    span: semconv.Span
    metric: Metric
    labels: Callable[[Labels, Mapping[str, object]], Attributes]


def _cache(attributes: Mapping[str, object]) -> str:
    return str(attributes.get(semconv.CACHE.key, semconv.Cache.MISS))


def _clock(attributes: Mapping[str, object]) -> str:
    return str(attributes.get(semconv.CLOCK.key, Clock.HOST))


OPERATIONS = (
    Row(semconv.MODEL_LOAD, semconv.MODEL_LOAD_DURATION, lambda _, a: {"cache": _cache(a)}),
    Row(semconv.VOICE_LOAD, semconv.VOICE_LOAD_DURATION, lambda r, a: {"voice": r.voice, "cache": _cache(a)}),
    Row(
        semconv.PREPROCESS,
        semconv.PREPROCESS_DURATION,
        lambda r, a: {"voice": r.voice, "text_length_range": r.text_length_range, "cache": _cache(a)},
    ),
    Row(semconv.QUEUE, semconv.QUEUE_DURATION, lambda r, _: {"voice": r.voice}),
    Row(
        semconv.FIRST_CHUNK,
        semconv.FIRST_AUDIO,
        lambda r, _: {"voice": r.voice, "text_length_range": r.text_length_range, "cfg": r.cfg, "steps": r.steps},
    ),
)
BLOCKS = (
    Row(semconv.DECODE, semconv.DECODE_DURATION, lambda r, a: {"voice": r.voice, "clock": _clock(a)}),
    Row(semconv.PREFILL, semconv.PREFILL_DURATION, lambda r, a: {"voice": r.voice, "clock": _clock(a)}),
    Row(
        semconv.LM_FORWARD,
        semconv.LM_DURATION,
        lambda r, a: {"voice": r.voice, "branch": str(a[semconv.LM_BRANCH.key]), "clock": _clock(a)},
    ),
)
OF_OPERATION, OF_BLOCK = ({row.span.name: row for row in rows} for rows in (OPERATIONS, BLOCKS))
#: Counters that are there at zero, else increase() misses a voice's first: the label beside the voice, and its values.
AT_ZERO: tuple[tuple[Metric, str, Iterable[str]], ...] = (
    (semconv.FIRST_AUDIO_SLI, "result", ("good", "bad")),
    (semconv.CONTINUITY_SLI, "result", ("good", "bad")),
    (semconv.FINISHED, "finish_reason", semconv.FinishReason),
    (semconv.WARM_UPS, "warmup", semconv.WarmUp),
    (semconv.SUSPECTS, "suspect", semconv.Suspect),
    (semconv.DEFECTIVE_FRAMES, "kind", semconv.Defect.ALL),
)
#: Attributes of a request whose values are counted: the counter, and the label beside the voice.
COUNTED = (
    (semconv.FINISH_REASON, semconv.FINISHED, "finish_reason"),
    (semconv.WARM_UP, semconv.WARM_UPS, "warmup"),
    (semconv.SUSPECT, semconv.SUSPECTS, "suspect"),
)
#: Measures that stand beside the steps -> histogram. A histogram refuses negatives, so growth and shrinkage are two.
STEP_MEASURES = {"memory_increase": semconv.MEMORY_INCREASE, "memory_decrease": semconv.MEMORY_DECREASE}
#: Measures of a step that depend on the device alone.
DEVICE_MEASURES = {"launch_latency": semconv.LAUNCH_LATENCY, "queue_latency": semconv.DEVICE_QUEUE}


class FromSpans:
    """The sink that derives every histogram and counter from span records.

    Args:
        instruments: where to record.
        step_labels: label of each step index, the last one for all beyond (recording.labels.Bounds).
        slo_first_audio: seconds within which first audio is good.
        slo_gap: seconds of the longest gap that is good.
        trace_share: the share of ordinary traces that a gateway keeps; exemplars of the others are not offered.
    """

    def __init__(
        self,
        instruments: Instruments,
        step_labels: tuple[str, ...],
        slo_first_audio: float,
        trace_share: float = 1.0,
        slo_gap: float = semconv.SLO_GAP_SECONDS,
    ) -> None:
        self._ledger = Ledger(instruments)
        self._step_labels = step_labels
        self._slo = slo_first_audio
        self._slo_gap = slo_gap
        self._share = trace_share
        forking.begin(self._forget)

    def _forget(self) -> None:
        self._drained: set[int] = set()  # open requests, which the recorder bounds
        self._combinations: set[tuple[str, str, str]] = set()

    def start_at_zero(self, labels: Labels) -> None:
        """Make every status of this voice, cfg and steps exist, else increase() misses a voice's first failures."""
        key = (labels.voice, labels.cfg, labels.steps)
        if key in self._combinations:
            return
        self._combinations.add(key)
        put, voice = self._ledger, {"voice": labels.voice}
        with put.lock:
            for status in Status:
                put.add(
                    semconv.REQUESTS, 0, {**voice, "status": status.value, "cfg": labels.cfg, "steps": labels.steps}
                )
            put.add(semconv.UNDERRUN, 0, voice)
            for metric, label, values in AT_ZERO:
                for value in values:
                    put.add(metric, 0, {**voice, label: str(value)})
            put.flush_if_full()

    def consume(self, batch: Batch) -> None:
        with self._ledger.lock:
            if batch.synthetic:  # a probe measures from outside, with instruments of its own
                self._shares(batch)
            elif batch.warm_up:
                self._warm_up(batch)
            else:
                self._spoken(batch)
            self._ledger.flush_if_full()

    def _spoken(self, batch: Batch) -> None:
        """Speech for a listener."""
        if batch.sampled and not self._kept(batch):
            batch = replace(batch, sampled=False)  # for exemplars alone: from here on nothing else asks
        if batch.final or batch.blocks:
            self.start_at_zero(batch.labels)
        if not batch.profiled:
            self._operations(batch)
            self._blocks(batch)
        self._shares(batch)
        self._sums(batch)
        if batch.final:
            self._request(batch)

    def _operations(self, batch: Batch) -> None:
        for operation in batch.operations:
            row = OF_OPERATION.get(operation.span.name)
            if row is not None:
                attributes = row.labels(batch.labels, operation.attributes)
                self._ledger.record(row.metric, operation.seconds, attributes, _exemplar(batch, operation))

    def _blocks(self, batch: Batch) -> None:
        for block in batch.blocks:
            row = OF_BLOCK.get(block.span.name)
            if row is not None:
                attributes = row.labels(batch.labels, block.attributes)
                self._ledger.record_many(
                    row.metric, block.seconds, attributes, batch.trace_id, _exemplars(batch, block)
                )
            elif block.span is semconv.STEP:
                self._steps(batch, block)
            elif block.span is semconv.FRAME and block.measures and batch.device_id is not None:
                self._limits(batch.device_id, block)

    def _limits(self, device_id: str, frames: Block) -> None:
        for name in FrameLimits._fields:
            total, error = float(np.nansum(frames.measures[name])), name == "error"
            metric = semconv.FRAME_LIMIT_ERROR if error else semconv.FRAME_LIMIT
            self._ledger.add(
                metric, total, {"device_id": device_id} if error else {"device_id": device_id, "limit": name}
            )

    def _shares(self, batch: Batch) -> None:
        """Kernels' shares of sampled frames, synthetic requests included."""
        if not batch.profiled or batch.device_id is None:
            return
        for block in batch.blocks:
            for part in SharePart if block.span is semconv.FRAME else ():
                values = block.measures.get(f"share_{part}")
                if values is not None:
                    shared = {"device_id": batch.device_id, "frame_part": part.value}
                    self._numbers(semconv.KERNEL_SHARE, values, shared, batch.trace_id, _exemplars(batch, block))

    def _sums(self, batch: Batch) -> None:
        put, voice = self._ledger, {"voice": batch.labels.voice}
        for part, seconds in (batch.first_audio_parts or {}).items() if not batch.profiled else ():
            put.record(semconv.FIRST_AUDIO_PART, seconds, {**voice, "part": part})
        for metric, amount in (
            (semconv.AUDIO_PRODUCED, batch.audio_seconds),
            (semconv.GENERATE_BUSY, batch.generate_seconds),
            (semconv.UNDERRUN, batch.underruns),
        ):
            if amount:
                put.add(metric, amount, voice)
        if len(batch.chunk_intervals) and not batch.profiled:
            spans = np.full(len(batch.chunk_intervals), batch.root_id if batch.sampled else 0, np.uint64)
            put.record_many(semconv.CHUNK_INTERVAL, batch.chunk_intervals, voice, batch.trace_id, spans)
        for kind, count in batch.defects.items():
            if count:
                put.add(semconv.DEFECTIVE_FRAMES, count, {**voice, "kind": kind})

    def _steps(self, batch: Batch, steps: Block) -> None:
        labels, exemplars = batch.labels, _exemplars(batch, steps)
        index = np.minimum(np.asarray(steps.attributes[semconv.STEP_INDEX.key]), len(self._step_labels) - 1)
        shared = {"voice": labels.voice, "cfg": labels.cfg, "steps": labels.steps}
        self._ledger.record_many(
            semconv.INFERENCE, steps.seconds, {**shared, "clock": _clock(steps.attributes)}, batch.trace_id, exemplars,
            numbers=index, split=self._by_step,
        )  # fmt: skip
        for name, values in steps.measures.items():
            if name in STEP_MEASURES:
                self._numbers(STEP_MEASURES[name], values, shared, batch.trace_id, exemplars, index)
            elif name in DEVICE_MEASURES and batch.device_id is not None:
                self._numbers(DEVICE_MEASURES[name], values, {"device_id": batch.device_id}, batch.trace_id, exemplars)

    def _numbers(
        self,
        metric: Metric,
        values: NDArray[np.int64] | NDArray[np.float64],
        attributes: Attributes,
        trace_id: int,
        exemplars: Ids,
        steps: Ints | None = None,
    ) -> None:
        """Record those of ``values`` that are numbers; with ``steps``, the index of each, as a series for each step."""
        known = ~np.isnan(values)
        if not known.any():
            return
        self._ledger.record_many(
            metric,
            values[known].astype(np.float64),
            attributes,
            trace_id,
            exemplars[known] if len(exemplars) else exemplars,
            numbers=None if steps is None else steps[known],
            split=None if steps is None else self._by_step,
        )

    def _by_step(self, attributes: Attributes, index: int) -> Attributes:
        """The series of one step index, in the order of the contract's labels."""
        voice, *others = attributes.items()
        return dict((voice, ("step_index", self._step_labels[index]), *others))

    def _request(self, batch: Batch) -> None:
        labels, put = batch.labels, self._ledger
        root = batch.operation(semconv.SYNTHESIZE)
        assert root is not None
        assert batch.status is not None
        voice = {"voice": labels.voice}
        put.add(semconv.REQUESTS, 1, {**voice, "status": batch.status.value, "cfg": labels.cfg, "steps": labels.steps})
        if batch.error_type is not None:
            put.add(semconv.ERRORS, 1, {**voice, "error_type": batch.error_type})
        good = self.first_audio_good(batch.status, root)
        if good is not None:
            put.add(semconv.FIRST_AUDIO_SLI, 1, {**voice, "result": "good" if good else "bad"})
        self._listener(batch, batch.status, root)
        ratio = root.attributes.get(semconv.REAL_TIME_FACTOR.key)
        if isinstance(ratio, float) and not batch.profiled:
            put.record(semconv.RTF, ratio, {**voice, "cfg": labels.cfg, "steps": labels.steps}, _exemplar(batch, root))
        silence = root.attributes.get(semconv.LEADING_SILENCE.key)
        if isinstance(silence, float):
            put.record(semconv.LEADING_SILENCE_SECONDS, silence, voice, _exemplar(batch, root))

    def first_audio_good(self, status: Status, root: Operation) -> bool | None:
        """Whether the request met the first-audio objective; None when it does not count towards it."""
        latency = root.attributes.get(semconv.FIRST_AUDIO_LATENCY.key)
        if isinstance(latency, float):
            return latency <= self._slo
        if status in {Status.REJECTED, Status.SUCCESS} or (status is Status.CANCELLED and _waited(root) <= self._slo):
            return None  # a success without first audio had no socket: a program that speaks to itself
        return False

    def _warm_up(self, batch: Batch) -> None:
        """The service speaks to itself before it is ready: what it loads is told as ever, and that it spoke; nothing
        else.
        """
        loads = [each for each in batch.operations if each.span in {semconv.MODEL_LOAD, semconv.VOICE_LOAD}]
        self._operations(replace(batch, operations=loads))
        if batch.final:
            attributes = {"voice": batch.labels.voice, "warmup": semconv.WarmUp.STARTUP.value}
            self._ledger.add(semconv.WARM_UPS, 1, attributes)

    def _listener(self, batch: Batch, status: Status, root: Operation) -> None:
        """What was asked for, and what the listener got."""
        voice, put, exemplar = {"voice": batch.labels.voice}, self._ledger, _exemplar(batch, root)
        of = root.attributes
        continuous = self.continuity_good(status, root)
        if continuous is not None:
            put.add(semconv.CONTINUITY_SLI, 1, {**voice, "result": "good" if continuous else "bad"})
            put.record(semconv.GAP, float(of[semconv.WORST_GAP.key]), voice, exemplar)
            silence = float(of.get(semconv.UNDERRUN_DURATION.key, 0.0))
            put.record(semconv.UNDERRUN_SECONDS, silence, voice, exemplar)
        if status is Status.SUCCESS and not batch.profiled:
            length = {"text_length_range": batch.labels.text_length_range}
            put.record(semconv.REQUEST_DURATION, _waited(root), {**voice, **length}, exemplar)
        for attribute, metric, label in COUNTED:
            for value in root.listed(attribute):
                put.add(metric, 1, {**voice, label: value})
        if semconv.AUDIO_UNCHECKED.key in of:
            put.add(semconv.UNCHECKED, float(of[semconv.AUDIO_UNCHECKED.key]), voice)
        audio, characters = of.get(semconv.AUDIO_DURATION.key), of.get(semconv.TEXT_LENGTH.key)
        if audio:
            put.record(semconv.AUDIO_SECONDS, float(audio), voice, exemplar)
        if batch.tenant is not None and status is not Status.REJECTED:
            tenant = {"tenant": batch.tenant}
            put.add(semconv.TENANT_CHARACTERS, float(characters or 0), tenant)
            put.add(semconv.TENANT_AUDIO, float(audio or 0), tenant)
        if characters is not None and status is not Status.REJECTED:
            put.record(semconv.TEXT_LENGTHS, float(characters), voice, exemplar)
            put.add(semconv.CHARACTERS, float(characters), voice)

    def continuity_good(self, status: Status, root: Operation) -> bool | None:
        """Whether the request met the continuity objective; None when it does not count towards it."""
        gap = root.attributes.get(semconv.WORST_GAP.key)
        if not isinstance(gap, float):
            return None  # no audio was sent, or its sends were not observed
        if status is Status.CANCELLED and gap <= self._slo_gap:
            return None  # the listener left a stream that had kept its promise so far
        return gap <= self._slo_gap

    def _kept(self, batch: Batch) -> bool:
        """Whether collector/gateway.yaml is sure to keep this trace; its policies, in the same order."""
        if (
            batch.blocks and not batch.final
        ):  # without frames it is an operation outside any request, which is not drained
            self._drained.add(batch.request)
        elif batch.request in self._drained:
            self._drained.discard(batch.request)
        elif not in_share(batch.trace_id, self._share):
            root = batch.operation(semconv.SYNTHESIZE)
            latency = root.attributes.get(semconv.FIRST_AUDIO_LATENCY.key) if root else None
            slow = isinstance(latency, float) and latency > self._slo
            underruns = root.attributes.get(semconv.UNDERRUNS.key) if root else None
            return batch.status in {Status.ERROR, Status.TIMEOUT} or slow or bool(underruns)
        return True


def _waited(root: Operation) -> float:
    """Seconds that the listener waited for the service: not while the service waited for what to speak."""
    return root.seconds - float(root.attributes.get(semconv.TEXT_WAIT.key, 0.0))


def _exemplar(batch: Batch, operation: Operation) -> tuple[int, int]:
    return (batch.trace_id, operation.span_id) if batch.sampled else (0, 0)


def _exemplars(batch: Batch, block: Block) -> Ids:
    """The span that an exemplar of each row may name: the row's own, or its frame's when the budget left it out."""
    if not batch.sampled:
        return np.empty(0, np.uint64)
    if block.exported is None:
        return block.span_id
    return np.where(block.exported, block.span_id, block.parent_id)
