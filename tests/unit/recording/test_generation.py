"""Blocks of one generation, and of several made one."""

from __future__ import annotations

import numpy as np

from tests.support.builders import MS, CountingIds, request
from vibevoice_otel import semconv
from vibevoice_otel.recording.device.times import by_clock
from vibevoice_otel.recording.generation import Generation, joined
from vibevoice_otel.recording.records import Block, Column, Ids, Ints

INDEX, CLOCK = semconv.STEP_INDEX.key, semconv.CLOCK.key


def whole(*values: int) -> Ints:
    return np.array(values, np.int64)


def ids(*values: int) -> Ids:
    return np.array(values, np.uint64)


def block(first: int, count: int, clock: str = "host", *, measure: str | None = "memory_increase") -> Block:
    """Steps that begin at ``first``, 10 apart and 4 long; their ids, parents and measures tell them apart."""
    start = np.arange(first, first + 10 * count, 10, dtype=np.int64)
    attributes: dict[str, Column] = {INDEX: np.arange(count), CLOCK: clock}
    measures = {measure: start * 2.0} if measure is not None else {}
    return Block(
        semconv.STEP,
        start,
        start + 4,
        start.astype(np.uint64) + 1,
        start.astype(np.uint64) + 2,
        attributes,
        None,
        measures,
    )


def test_blocks_of_a_kind_are_made_one_row_by_row() -> None:
    """Times, ids, parents, attributes and measures in the order of the runs; what all rows share stays shared."""
    (made,) = joined([[block(0, 2)], [block(100, 1)], [block(200, 2)]])
    assert made.span is semconv.STEP
    assert made.start.tolist() == [0, 10, 100, 200, 210]
    assert made.end.tolist() == [4, 14, 104, 204, 214]
    assert made.span_id.tolist() == [1, 11, 101, 201, 211]
    assert made.parent_id.tolist() == [2, 12, 102, 202, 212]
    assert made.attributes.keys() == {INDEX, CLOCK}
    assert np.asarray(made.attributes[INDEX]).tolist() == [0, 1, 0, 0, 1]
    assert made.attributes[CLOCK] == "host"
    assert {name: values.tolist() for name, values in made.measures.items()} == {
        "memory_increase": [0.0, 20.0, 200.0, 400.0, 420.0]
    }


def test_blocks_that_differ_stay_apart() -> None:
    """By the clock, by what was measured, by which attributes there are; one run's blocks are left as they are."""
    other = block(300, 1)
    other.attributes[semconv.STREAM_PARTIAL.key] = True
    runs = [[block(0, 1), block(10, 1, "device")], [block(100, 1, measure=None), other, block(200, 1)]]
    assert [each.start.tolist() for each in joined(runs)] == [[0, 200], [10], [100], [300]]
    assert joined(runs[:1]) is runs[0]


def test_the_two_clocks_are_two_blocks() -> None:
    """Each with the rows, ids and measures of its own; the clock's error stands on the device's rows alone."""
    rows = Block(
        semconv.STEP,
        whole(0, 10, 20),
        whole(4, 14, 24),
        ids(7, 8, 9),
        ids(1, 1, 2),
        {
            INDEX: whole(0, 1, 0),
            semconv.STREAM_PARTIAL.key: True,
            "clock.error": np.array([0.1, np.nan, 0.3]),
        },
        measures={"memory_increase": np.array([1.0, 2.0, 3.0])},
    )
    device, host = by_clock(rows, np.array([True, False, True]))
    assert (device.start.tolist(), device.end.tolist()) == ([0, 20], [4, 24])
    assert (host.start.tolist(), host.end.tolist()) == ([10], [14])
    assert (device.span_id.tolist(), device.parent_id.tolist()) == ([7, 9], [1, 2])
    assert (host.span_id.tolist(), host.parent_id.tolist()) == ([8], [1])
    assert np.asarray(device.attributes[INDEX]).tolist() == [0, 0]
    assert np.asarray(device.attributes["clock.error"]).tolist() == [0.1, 0.3]
    assert host.attributes.keys() == {INDEX, CLOCK, semconv.STREAM_PARTIAL.key}
    assert host.attributes[CLOCK] == semconv.Clock.HOST
    assert device.attributes[semconv.STREAM_PARTIAL.key] is True
    assert [each.measures["memory_increase"].tolist() for each in (device, host)] == [[1.0, 3.0], [2.0]]


def test_steps_before_the_first_frame_are_left_out() -> None:
    """They belong to no frame that is known; a step at a frame's own beginning is that frame's."""
    t = request(frames=0)
    run = t.runs[0]
    run.frames.extend((20 * MS, 30 * MS))
    run.steps.extend((15 * MS, 20 * MS, 24 * MS, 30 * MS, 34 * MS))
    made = Generation(run, t.anchor, CountingIds())
    blocks = {each.span: each for each in made.blocks(40 * MS, 40 * MS, None, final=True)}
    frames, steps = blocks[semconv.FRAME], blocks[semconv.STEP]
    assert steps.end.tolist() == [20 * MS, 24 * MS, 30 * MS, 34 * MS]
    assert np.asarray(steps.attributes[INDEX]).tolist() == [0, 1, 0, 1]
    assert steps.parent_id.tolist() == [each for each in frames.span_id.tolist() for _ in range(2)]
    assert np.asarray(frames.attributes[semconv.FRAME_STEPS.key]).tolist() == [2, 2]
    assert (frames.start.tolist(), frames.end.tolist()) == ([20 * MS, 30 * MS], [30 * MS, 40 * MS])


def test_a_frame_never_ends_before_it_begins() -> None:
    """The generation is said to end before its last frame began: a hook was late."""
    t = request(frames=0)
    t.runs[0].frames.append(20 * MS)
    made = Generation(t.runs[0], t.anchor, CountingIds()).blocks(30 * MS, 10 * MS, None, final=True)
    (frames,) = (each for each in made if each.span is semconv.FRAME)
    assert (frames.start.tolist(), frames.end.tolist()) == ([20 * MS], [20 * MS])
