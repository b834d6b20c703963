"""The one table: which span record feeds which instrument, with which attributes. No other code records a latency.

It reads every record before any sampler or budget, so counts and sums are exact whatever is exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel import semconv
from vibevoice_otel.guard.share import in_share
from vibevoice_otel.metrics.instruments import Attributes, Instruments
from vibevoice_otel.recording.records import Batch, Block, Ids, Labels, Operation
from vibevoice_otel.semconv import Clock, Metric, Status


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
)
#: Measures that stand beside the steps -> histogram. A histogram refuses negatives, so growth and shrinkage are two.
STEP_MEASURES = {"memory_increase": semconv.MEMORY_INCREASE, "memory_decrease": semconv.MEMORY_DECREASE}
#: Measures of a step that depend on the device alone.
DEVICE_MEASURES = {"launch_latency": semconv.LAUNCH_LATENCY, "queue_latency": semconv.DEVICE_QUEUE}
COUNTED = (Status.SUCCESS, Status.ERROR, Status.TIMEOUT)


class FromSpans:
    """The sink that derives every histogram and counter from span records.

    Args:
        instruments: where to record.
        step_labels: label of each step index, the last one for all beyond (guard.cardinality.Bounds.step_labels).
        slo_first_audio: seconds within which first audio is good.
        trace_share: the share of ordinary traces that a gateway keeps; exemplars of the others are not offered.
    """

    def __init__(self, instruments: Instruments, step_labels: tuple[str, ...], slo_first_audio: float, trace_share: float = 1.0) -> None:
        self._instruments = instruments
        self._step_labels = step_labels
        self._slo = slo_first_audio
        self._share = trace_share
        self._drained: set[int] = set()
        self._combinations: set[tuple[str, str, str]] = set()

    def start_at_zero(self, labels: Labels) -> None:
        """Make every status of this voice, cfg and steps exist, else increase() misses a voice's first failures."""
        key = (labels.voice, labels.cfg, labels.steps)
        if key in self._combinations:
            return
        self._combinations.add(key)
        for status in Status:
            self._instruments.add(
                semconv.REQUESTS, 0, {"voice": labels.voice, "status": status.value, "cfg": labels.cfg, "steps": labels.steps}
            )
        for result in ("good", "bad"):
            self._instruments.add(semconv.FIRST_AUDIO_SLI, 0, {"voice": labels.voice, "result": result})
        self._instruments.add(semconv.UNDERRUN, 0, {"voice": labels.voice})
        for kind in semconv.Defect.ALL:
            self._instruments.add(semconv.DEFECTIVE_FRAMES, 0, {"voice": labels.voice, "kind": kind})

    def consume(self, batch: Batch) -> None:
        if batch.synthetic:
            return  # a probe measures from outside, with instruments of its own
        if batch.sampled and not self._kept(batch):
            batch = replace(batch, sampled=False)  # for exemplars alone: from here on nothing else asks
        if batch.final or batch.blocks:
            self.start_at_zero(batch.labels)
        self._operations(batch)
        self._blocks(batch)
        self._sums(batch)
        if batch.final:
            self._request(batch)

    def _operations(self, batch: Batch) -> None:
        for row, operation in product(OPERATIONS, batch.operations):
            if operation.span is row.span:
                attributes = row.labels(batch.labels, operation.attributes)
                self._instruments.record(row.metric, operation.seconds, attributes, _exemplar(batch, operation))

    def _blocks(self, batch: Batch) -> None:
        for row, block in product(BLOCKS, batch.blocks):
            if block.span is row.span:
                attributes = row.labels(batch.labels, {k: v for k, v in block.attributes.items() if isinstance(v, str)})
                self._instruments.record_many(row.metric, block.seconds, attributes, batch.trace_id, _exemplars(batch, block))
        for block in batch.blocks:
            if block.span is semconv.STEP:
                self._steps(batch, block)

    def _sums(self, batch: Batch) -> None:
        put, voice = self._instruments, {"voice": batch.labels.voice}
        for part, seconds in (batch.first_audio_parts or {}).items():
            put.record(semconv.FIRST_AUDIO_PART, seconds, {**voice, "part": part})
        for metric, amount in ((semconv.AUDIO_PRODUCED, batch.audio_seconds), (semconv.GENERATE_BUSY, batch.generate_seconds)):
            if amount:
                put.add(metric, amount, voice)
        if batch.underruns:
            put.add(semconv.UNDERRUN, batch.underruns, voice)
        for kind, count in batch.defects.items():
            if count:
                put.add(semconv.DEFECTIVE_FRAMES, count, {**voice, "kind": kind})

    def _steps(self, batch: Batch, steps: Block) -> None:
        labels = batch.labels
        index = np.minimum(np.asarray(steps.attributes[semconv.STEP_INDEX.key]), len(self._step_labels) - 1)
        seconds, exemplars = steps.seconds, _exemplars(batch, steps)
        clock = _clock({k: v for k, v in steps.attributes.items() if isinstance(v, str)})
        for position in np.unique(index):
            rows = index == position
            shared = {"voice": labels.voice, "step_index": self._step_labels[position], "cfg": labels.cfg, "steps": labels.steps}
            chosen = exemplars[rows] if len(exemplars) else exemplars
            self._instruments.record_many(semconv.INFERENCE, seconds[rows], {**shared, "clock": clock}, batch.trace_id, chosen)
            for name, metric in STEP_MEASURES.items():
                if name in steps.measures:
                    self._measured(metric, steps.measures[name][rows], shared, batch.trace_id, chosen)
        for name, metric in DEVICE_MEASURES.items():
            if name in steps.measures and batch.device_id is not None:
                self._measured(metric, steps.measures[name], {"device_id": batch.device_id}, batch.trace_id, exemplars)

    def _measured(self, metric: Metric, values: NDArray[Any], attributes: Attributes, trace_id: int, exemplars: Ids) -> None:
        """Record those of ``values`` that were measured; the others are not a number."""
        values = values.astype(np.float64)
        known = ~np.isnan(values)
        if known.any():
            chosen = exemplars[known] if len(exemplars) else exemplars
            self._instruments.record_many(metric, values[known], attributes, trace_id, chosen)

    def _request(self, batch: Batch) -> None:
        labels, put = batch.labels, self._instruments
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
        ratio = root.attributes.get(semconv.REAL_TIME_FACTOR.key)
        if isinstance(ratio, float):
            put.record(semconv.RTF, ratio, {**voice, "cfg": labels.cfg, "steps": labels.steps}, _exemplar(batch, root))
        silence = root.attributes.get(semconv.LEADING_SILENCE.key)
        if isinstance(silence, float):
            put.record(semconv.LEADING_SILENCE_SECONDS, silence, voice, _exemplar(batch, root))

    def first_audio_good(self, status: Status, root: Operation) -> bool | None:
        """Whether the request met the first-audio objective; None when it does not count towards it."""
        latency = root.attributes.get(semconv.FIRST_AUDIO_LATENCY.key)
        if isinstance(latency, float):
            return latency <= self._slo
        if status in {Status.REJECTED, Status.SUCCESS} or (status is Status.CANCELLED and root.seconds <= self._slo):
            return None  # a success without first audio had no socket: a program that speaks to itself
        return False

    def _kept(self, batch: Batch) -> bool:
        """Whether collector/gateway.yaml is sure to keep this trace; its policies, in the same order."""
        if batch.blocks and not batch.final:  # without frames it is an operation outside any request, which is not drained
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


def _exemplar(batch: Batch, operation: Operation) -> tuple[int, int] | None:
    return (batch.trace_id, operation.span_id) if batch.sampled else None


def _exemplars(batch: Batch, block: Block) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """The span that an exemplar of each row may name: the row's own, or its frame's when the budget left it out."""
    if not batch.sampled:
        return np.empty(0, np.uint64)
    if block.exported is None:
        return block.span_id
    return np.where(block.exported, block.span_id, block.parent_id)
