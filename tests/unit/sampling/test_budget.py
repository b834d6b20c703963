"""What is exported when there is too much: by value, said on the trace, and never at the metrics' expense."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.support.builders import MS, add_frame, assembly, finish, request
from tests.support.metrics import by_name
from vibevoice_otel import semconv
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.recording.assembler import Assembly
from vibevoice_otel.recording.records import Batch, Block
from vibevoice_otel.sampling.budget import RESERVE, SpanBudget
from vibevoice_otel.settings import Settings

PLENTY = 10_000_000


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def budget(
    trace: int = PLENTY, rate: int = PLENTY, interval: float = 1.0
) -> tuple[SpanBudget, Clock, list[tuple[str, str, int]]]:
    clock, dropped = Clock(), list[tuple[str, str, int]]()
    chosen = Settings(max_trace_spans=trace, max_spans_per_second=rate, drain_interval=interval)
    return SpanBudget(chosen, lambda *drop: dropped.append(drop), clock), clock, dropped


def spans(batch: Batch) -> int:
    return len(batch.operations) + sum(len(block.rows()) for block in batch.blocks)


def detailed(batch: Batch) -> list[int]:
    """Indices of the frames that kept their steps."""
    frames, steps = batch.block(semconv.FRAME), batch.block(semconv.STEP)
    assert frames is not None
    assert steps is not None
    kept = {parent for _, _, _, parent, _ in steps.rows()}
    numbers = frames.attributes[semconv.FRAME_INDEX.key]
    return [
        int(number)
        for number, span_id in zip(np.asarray(numbers), frames.span_id.tolist(), strict=True)
        if span_id in kept
    ]


def slow(batch: Batch, *numbers: int) -> None:
    """Let these frames have taken longer than the others."""
    frames = batch.block(semconv.FRAME)
    assert frames is not None
    frames.end = frames.end.copy()
    for place, number in enumerate(numbers):
        frames.end[number] += (place + 1) * MS


def test_within_the_budget_nothing_is_touched() -> None:
    """The common case: no mask, no word; the trace says how many spans it has."""
    one, _, dropped = budget()
    batch = finish(request(frames=20))
    one.consume(batch)
    assert all(block.exported is None for block in batch.blocks)
    root = batch.operation(semconv.SYNTHESIZE)
    assert root is not None
    assert semconv.SPANS_OMITTED.key not in root.attributes
    assert root.attributes[semconv.SPANS_EXPORTED.key] == spans(batch) > 100
    assert dropped == []


def test_an_unrecorded_trace_is_no_ones_budget() -> None:
    """What no sampler wants costs nothing, so nothing is counted."""
    one, _, dropped = budget(trace=20)
    batch = assembly(request(frames=50), sampled=False).finish(end=600 * MS)
    one.consume(batch)
    assert all(block.exported is None for block in batch.blocks)
    assert dropped == []


def test_frames_are_chosen_by_value() -> None:
    """The first chunk's frame, the defective, the slowest and a spread of the rest keep their children, in that order
    of worth.
    """
    batch = finish(request(frames=40, steps=2))
    slow(batch, 21, 33)
    frames = batch.block(semconv.FRAME)
    assert frames is not None
    frames.attributes[semconv.FRAME_DEFECT.key] = np.where(np.arange(40) == 17, "nan", "")
    marked = frames.attributes[semconv.FRAME_DEFECT.key]
    for detail, expected in ((1, {0}), (2, {0, 17}), (3, {0, 17, 33}), (5, {0, 17, 33, 21})):
        batch = finish(request(frames=40, steps=2))
        slow(batch, 21, 33)
        frames = batch.block(semconv.FRAME)
        assert frames is not None
        frames.attributes[semconv.FRAME_DEFECT.key] = marked
        one, _, _ = budget(trace=len(batch.operations) + 1 + 40 + detail * 5)  # 1 prefill, 40 frames, 5 children each
        one.consume(batch)
        kept = detailed(batch)
        assert len(kept) == detail
        assert expected <= set(kept)


def test_the_rest_is_spread_evenly() -> None:
    """Where all frames are alike, those that keep detail are not all at one end."""
    batch = finish(request(frames=64, steps=2))
    one, _, _ = budget(trace=len(batch.operations) + 1 + 64 + 16 * 5)
    one.consume(batch)
    kept = detailed(batch)
    assert len(kept) == 16
    assert all(any(low <= number < low + 16 for number in kept) for low in range(0, 64, 16))


def test_a_frame_without_steps_has_their_statistics() -> None:
    """Mean and longest, in seconds; a frame that kept its steps has neither."""
    batch = finish(request(frames=30, steps=3))
    steps = batch.block(semconv.STEP)
    assert steps is not None
    steps.end = steps.end.copy()
    steps.end[7 * 3 + 1] += 5 * MS  # the second step of frame 7: 7 ms instead of 2
    one, _, _ = budget(trace=len(batch.operations) + 1 + 30 + 6)
    one.consume(batch)
    frames = batch.block(semconv.FRAME)
    assert frames is not None
    assert detailed(batch) == [0]
    found = {attributes[semconv.FRAME_INDEX.key]: attributes for *_, attributes in frames.rows()}
    assert len(found) == 30
    assert semconv.STEP_MEAN.key not in found[0]
    assert semconv.STEP_MAX.key not in found[0]
    assert found[7][semconv.STEP_MEAN.key] == pytest.approx(0.011 / 3)
    assert found[7][semconv.STEP_MAX.key] == pytest.approx(0.007)
    assert found[8][semconv.STEP_MEAN.key] == found[8][semconv.STEP_MAX.key] == pytest.approx(0.002)


def test_the_trace_and_the_counter_say_what_was_left_out() -> None:
    """Both numbers are exact, and telemetry.dropped is told the same one."""
    batch = finish(request(frames=40))
    before = spans(batch)
    one, _, dropped = budget(trace=100)
    one.consume(batch)
    left_out = before - spans(batch)
    assert spans(batch) <= 100
    assert left_out > 0
    root = batch.operation(semconv.SYNTHESIZE)
    assert root is not None
    assert root.attributes[semconv.SPANS_OMITTED.key] == left_out
    assert root.attributes[semconv.SPANS_EXPORTED.key] == spans(batch)
    assert dropped == [("spans", "budget", left_out)]


@examples(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 6), st.integers(20, 400), st.integers(1, 400))
def test_no_limit_is_exceeded(frames: int, steps: int, trace: int, rate: int) -> None:
    """Whatever the request, its rows stay within both limits; the operations, a handful, are always there."""
    batch = finish(request(frames=frames, steps=steps))
    operations, before = len(batch.operations), spans(batch)
    # Of many steps a frame made here runs into the next one, so the last has more children than its own.
    children = Counter(
        parent for block in batch.blocks if block.span is not semconv.FRAME for parent in block.parent_id.tolist()
    )
    most = max(children.values(), default=0)
    one, _, dropped = budget(trace=trace, rate=rate)
    one.consume(batch)
    after = spans(batch)
    assert after <= max(operations, min(trace, rate))
    assert after >= min(before, trace, rate) - most  # what is left over is less than one frame's children
    assert sum(count for _, _, count in dropped) == before - after


def test_the_rate_is_shared_and_comes_back() -> None:
    """One busy moment leaves spans out; a second later there is room again."""
    one, clock, dropped = budget(rate=200)
    first, second, third = (finish(request(frames=20)) for _ in range(3))
    for number, batch in enumerate((first, second, third)):
        batch.request = number
    one.consume(first)
    one.consume(second)
    assert sum(count for _, _, count in dropped) > 0
    assert spans(first) + spans(second) <= 200
    clock.now = 1.0
    before = len(dropped)
    one.consume(third)
    assert len(dropped) == before


def long_stream(seconds: int, trace: int) -> tuple[Assembly, list[Batch], list[tuple[str, str, int]]]:
    """A stream of 7.5 frames a second, drained every 5 seconds, through a budget."""
    one, clock, dropped = budget(trace=trace, interval=5.0)
    timeline = request(frames=0)
    timeline.runs[0].end = timeline.work_end = timeline.web_closed = None
    made, batches, at = assembly(timeline), [], 10 * MS
    for _ in range(seconds // 5):
        for _ in range(38):
            add_frame(timeline, at, 5)
            at += 133 * MS
        batch = made.drain()
        assert batch is not None
        batch.recording = True
        one.consume(batch)
        batches.append(batch)
        clock.now += 5
    timeline.runs[0].end = timeline.work_end = timeline.web_closed = at
    batches.append(made.finish(end=at))
    one.consume(batches[-1])
    assert one._requests == {}
    return made, batches, dropped


def test_ten_minutes_stay_within_a_trace() -> None:
    """A 10 minute stream is over 20,000 spans: it begins in full detail, keeps every frame, and still shows its slowest
    at the end.
    """
    _, batches, dropped = long_stream(600, 20_000)
    total = sum(spans(batch) for batch in batches)
    everything = sum(len(batch.operations) + sum(len(block) for block in batch.blocks) for batch in batches)
    assert everything > 38_000
    assert total <= 20_000
    frames = [block for batch in batches if (block := batch.block(semconv.FRAME)) is not None]
    assert all(block.exported is None for block in frames)
    assert batches[0].blocks[0].exported is None
    assert all(detailed(batch) for batch in batches[:-1])
    root = batches[-1].operation(semconv.SYNTHESIZE)
    assert root is not None
    assert root.attributes[semconv.SPANS_OMITTED.key] == everything - total == sum(count for _, _, count in dropped)
    assert root.attributes[semconv.SPANS_EXPORTED.key] == total


def test_two_hours_too() -> None:
    """When not even a frame each fits, frames are left out by the same order; the trace still ends within its limit."""
    _, batches, _ = long_stream(7200, 20_000)
    assert sum(spans(batch) for batch in batches) <= 20_000
    assert batches[-1].operation(semconv.SYNTHESIZE) is not None


def metrics(batches: list[Batch]) -> dict[str, Any]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    sink = FromSpans(Instruments(provider, "1", Limits(2000, 50_000)), tuple(str(i) for i in range(51)), 0.45)
    for batch in batches:
        sink.consume(batch)
    return by_name(reader)


@pytest.mark.parametrize("trace", [20, 60, 120])
def test_histograms_are_complete_and_exemplars_name_spans_that_exist(trace: int) -> None:
    """Every step is counted; each exemplar names an exported span: the step, else its frame,
    else vibevoice.generate.
    """
    batch = finish(request(frames=30, steps=3))
    one, _, _ = budget(trace=trace)
    one.consume(batch)
    exported = {operation.span_id for operation in batch.operations} | {
        span_id for b in batch.blocks for _, _, span_id, _, _ in b.rows()
    }
    points = metrics([batch])
    assert sum(point.count for point in points[semconv.INFERENCE.name]) == 90
    assert sum(point.count for point in points[semconv.DECODE_DURATION.name]) == 30
    named = {
        e.span_id
        for name in (semconv.INFERENCE.name, semconv.DECODE_DURATION.name)
        for p in points[name]
        for e in p.exemplars
    }
    assert named
    assert named <= exported


def test_rows_of_no_frame_give_way_last() -> None:
    """A prefill stands under vibevoice.generate; it goes only when there is room for nothing."""
    batch = finish(request(frames=10))
    prefill = batch.block(semconv.PREFILL)
    assert prefill is not None
    one, _, _ = budget(trace=len(batch.operations) + 1)
    one.consume(batch)
    assert len(prefill.rows()) == 1
    frames = batch.block(semconv.FRAME)
    assert frames is not None
    assert frames.rows() == []


def test_without_frames_the_first_rows_stay() -> None:
    """A model whose frame hook is missing may have rows under vibevoice.generate alone."""
    batch = finish(request(frames=10))
    steps = batch.block(semconv.STEP)
    assert steps is not None
    batch.blocks = [
        steps,
        Block(semconv.DECODE, steps.start, steps.end, steps.span_id + np.uint64(100), steps.parent_id),
    ]
    one, _, dropped = budget(trace=len(batch.operations) + 25)
    one.consume(batch)
    assert [len(block.rows()) for block in batch.blocks] == [20, 5]
    assert dropped == [("spans", "budget", 15)]


def test_a_stream_keeps_room_for_its_end() -> None:
    """Whatever came before, the operations that end a request fit in the trace."""
    _, batches, _ = long_stream(300, 1000)
    assert len(batches[-1].operations) <= RESERVE
    assert sum(spans(batch) for batch in batches) <= 1000
