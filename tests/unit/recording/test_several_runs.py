"""A request that generates several times, a loop over sentences: each call is a span of its own,
and the sums are true.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.builders import MS, add_frame, assembly, request
from vibevoice_otel import semconv
from vibevoice_otel.recording.clock import Anchor
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.recording.timeline import Run, Timeline, bound, thread

SENTENCES = 3


def _sentences(pause: int = 50 * MS) -> Timeline:
    """Three runs of two frames each; between them the service prepares the next sentence."""
    t = request(frames=2)
    at = t.runs[0].end
    assert at is not None
    for _ in range(SENTENCES - 1):
        run = Run(t.request, t.used)
        t.runs.append(run)
        run.start = at + pause
        run.leaves[Leaf.PREFILL].extend((run.start + 1 * MS, run.start + 2 * MS))
        for frame in range(2):
            add_frame(t, run.start + (2 + 10 * frame) * MS, 2)
        at = run.end = run.start + 22 * MS
    t.work_end = t.service_closed = at + 1 * MS
    t.web_closed = at + 2 * MS
    return t


def _generated(batch: Batch) -> list[tuple[int, int]]:
    return [(op.start, op.end) for op in batch.operations if op.span is semconv.GENERATE]


def test_each_generation_is_a_span_that_holds_its_own_frames() -> None:
    """Three spans vibevoice.generate; every frame lies inside the one that is its parent, numbered from 0 in it."""
    batch = assembly(_sentences()).finish(end=400 * MS)
    spans = {op.span_id: op for op in batch.operations if op.span is semconv.GENERATE}
    assert len(spans) == SENTENCES
    frames = batch.block(semconv.FRAME)
    assert frames is not None
    assert len(frames) == SENTENCES * 2
    assert sum(block.span is semconv.FRAME for block in batch.blocks) == 1
    for row in range(len(frames)):
        parent = spans[int(frames.parent_id[row])]
        assert parent.start <= frames.start[row] <= frames.end[row] <= parent.end
    assert np.asarray(frames.attributes[semconv.FRAME_INDEX.key]).tolist() == [0, 1] * SENTENCES
    assert [op.attributes[semconv.FRAMES.key] for op in spans.values()] == [2] * SENTENCES


def test_a_run_that_is_taken_up_late_stands_where_it_began() -> None:
    """A thread is bound and fails before it generates, while another generates; the next thread takes that first run.
    Frames are in the order of time, and a defect is its own frame's.
    """
    t = Timeline(1, Anchor(wall=0, monotonic=0), 0)

    def generate(run: Run, at: int, loudness: float) -> None:
        run.start = at
        for frame in range(2):
            run.frames.append(at + (1 + 10 * frame) * MS)
            t.audio_samples.append(3200)
            t.audio_low.append(-loudness)
            t.audio_high.append(loudness)
        run.end = at + 22 * MS

    with bound(t) as first, bound(t) as second:
        generate(second, 10 * MS, 0.5)
    with bound(t) as again:
        assert again is first is not second
        generate(again, 60 * MS, 0.0)
    frames = assembly(t).finish(end=400 * MS).block(semconv.FRAME)
    assert frames is not None
    assert (np.diff(frames.start) > 0).all()
    defects = np.asarray(frames.attributes[semconv.FRAME_DEFECT.key]).tolist()
    assert defects == ["", "", semconv.Defect.SILENT, semconv.Defect.SILENT]


def test_the_real_time_factor_is_the_generations_time_over_the_audio() -> None:
    """What the service does between two sentences is not generation; the first sentence alone is not the request."""
    t = _sentences()
    batch = assembly(t).finish(end=400 * MS)
    spent = sum(end - start for start, end in _generated(batch)) / 1e9
    root = batch.operation(semconv.SYNTHESIZE)
    assert root is not None
    assert batch.generate_seconds == pytest.approx(spent)
    assert spent == pytest.approx(0.023 + 2 * 0.022)
    assert root.attributes[semconv.REAL_TIME_FACTOR.key] == pytest.approx(spent / (6 * 3200 / 24_000))
    assert root.attributes[semconv.FRAMES.key] == SENTENCES * 2


def test_drained_in_pieces_it_is_the_same() -> None:
    """A request that is drained after each frame tells the same frames, steps and seconds."""
    whole = assembly(_sentences()).finish(end=400 * MS)
    t = _sentences()
    pieces, batches = assembly(t), []
    drained = pieces.drain()
    assert drained is not None
    batches = [drained, pieces.finish(end=400 * MS)]
    for span in (semconv.FRAME, semconv.STEP, semconv.DECODE, semconv.PREFILL):
        assert sum(len(block) for each in batches for block in each.blocks if block.span is span) == sum(
            len(block) for block in whole.blocks if block.span is span
        )
    assert sum(each.generate_seconds for each in batches) == pytest.approx(whole.generate_seconds)
    assert _generated(batches[-1]) == _generated(whole)


def test_a_defective_frame_is_marked_in_its_own_generation() -> None:
    """The fourth chunk handed over is the second frame of the second sentence."""
    t = _sentences()
    t.audio_low[3] = t.audio_high[3] = 0.0
    frames = assembly(t).finish(end=400 * MS).block(semconv.FRAME)
    assert frames is not None
    assert np.asarray(frames.attributes[semconv.FRAME_DEFECT.key]).tolist() == ["", "", "", "silent", "", ""]


def test_audio_on_a_device_is_counted_and_not_judged() -> None:
    """Its seconds are known from the shape; whether it is silent is not, so nothing is said of that."""
    t = request()
    t.audio_low[:], t.audio_high[:] = [float("inf")] * 2, [float("-inf")] * 2
    batch = assembly(t).finish(end=100 * MS)
    root = batch.operation(semconv.SYNTHESIZE)
    assert root is not None
    assert batch.audio_seconds == pytest.approx(2 * 3200 / 24_000)
    assert sum(batch.defects.values()) == 0
    told = {semconv.FRAMES_SILENT.key, semconv.FRAMES_NAN.key, semconv.FRAMES_CLIPPED.key, semconv.LEADING_SILENCE.key}
    assert not told & root.attributes.keys()


def test_two_threads_of_a_request_never_share_a_run() -> None:
    """A run that a thread makes, or has made, is not taken by the next; one that never began is."""
    t = request()
    t.runs[:] = [Run(t.request, t.used)]
    t.free[:] = t.runs
    with bound(t):
        pass
    with bound(t) as first:
        first.start = 1
        with bound(t) as second:
            assert second is not first
        first.end = 2
    assert thread.run is None
    assert len(t.runs) == 2


def test_frames_past_the_end_of_speech_are_no_audio() -> None:
    """Two sentences of eight frames without a streamer, each handed back without its last three: what batches tell
    never falls and is in the end what was handed back, however the drains lie.
    """
    t = request(frames=0)
    pieces, told = assembly(t), []
    t.runs[0].end = None
    for sentence in range(2):
        if sentence:
            t.runs.append(Run(t.request, t.used))
        run = t.runs[-1]
        run.start, run.end = (20 + 90 * sentence) * MS, None
        for frame in range(8):
            add_frame(t, run.start + (1 + 10 * frame) * MS, 2)
            run.decoded += 3200
            drained = pieces.drain()
            told.append(0.0 if drained is None else drained.audio_seconds)
        run.returned, run.end = 5 * 3200, run.start + 82 * MS
    final = pieces.finish(end=400 * MS)
    root = final.operation(semconv.SYNTHESIZE)
    assert root is not None
    assert root.attributes[semconv.AUDIO_DURATION.key] == pytest.approx(10 * 3200 / 24_000)
    assert min(told) >= 0
    assert max(told) > 0
    assert sum(told) + final.audio_seconds == pytest.approx(10 * 3200 / 24_000)
