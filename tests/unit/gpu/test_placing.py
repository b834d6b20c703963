"""Device times on the host's clock: within the error that they state, in order, nested, and without ever making the
host wait.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.fake_gpu.device import MS, US, FakeGpu, Synchronised
from tests.support.builders import assembly
from tests.unit.gpu.simulated import Run, blocks, errors
from vibevoice_otel import semconv
from vibevoice_otel.recording.device.placing import LOOK, LOOK_SEEN, PATIENCE, Placing
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.records import Batch, Block

SPANS = {semconv.STEP: "steps", semconv.DECODE: "decodes", semconv.PREFILL: "prefills"}


def generated(run: Run, frames: int = 3, steps: int = 5) -> Run:
    run.prefills.append(run.leaf(Leaf.PREFILL, 4 * MS))
    for _ in range(frames):
        run.frame(steps)
    run.end()
    return run


def stated(batch: Batch, block: Block) -> np.ndarray:
    """The error, ns, that is stated for each row of ``block``: its own, or its frame's."""
    if semconv.CLOCK_ERROR.key in block.attributes:
        return np.asarray(block.attributes[semconv.CLOCK_ERROR.key]) * 1e9
    frames = batch.block(semconv.FRAME)
    assert frames is not None
    own = dict(
        zip(frames.span_id.tolist(), np.asarray(frames.attributes[semconv.CLOCK_ERROR.key]).tolist(), strict=True)
    )
    return np.array([own[parent] for parent in block.parent_id.tolist()]) * 1e9


def check_tree(batch: Batch) -> None:
    """Every record lies inside its parent, and steps of a frame follow one another."""
    inside = {op.span_id: (op.start, op.end) for op in batch.operations}
    for block in batch.blocks:
        inside.update(
            dict(zip(block.span_id.tolist(), zip(block.start.tolist(), block.end.tolist(), strict=True), strict=True))
        )
    for block in batch.blocks:
        for start, end, parent in zip(block.start.tolist(), block.end.tolist(), block.parent_id.tolist(), strict=True):
            assert start <= end, block.span
            assert inside[parent][0] <= start, block.span
            assert end <= inside[parent][1], block.span
    for block in batch.blocks:
        if block.span is semconv.STEP:
            same = block.parent_id[1:] == block.parent_id[:-1]
            assert (block.start[1:] >= block.end[:-1])[same].all()


@given(
    launch=st.floats(1 * US, 80 * US),
    jitter=st.floats(0, 50 * US),
    skew=st.floats(-5e-5, 5e-5),
    step_ns=st.floats(20 * US, 40 * MS),
    host_ns=st.floats(1 * US, 2 * MS),
    syncs=st.booleans(),
    frames=st.integers(1, 6),
    steps=st.integers(0, 10),
    seed=st.integers(0, 1000),
)
@examples(max_examples=150, deadline=None)
def test_every_interval_is_within_the_stated_error_of_the_truth(
    launch: float,
    jitter: float,
    skew: float,
    step_ns: float,
    host_ns: float,
    syncs: bool,
    frames: int,
    steps: int,
    seed: int,
) -> None:
    """Whatever the launches, the kernels, the drift and the rounding: no start and no end is further from the truth
    than is said. A card that is further behind than PATIENCE is not waited for: its frames stay on host time.
    """
    assume(frames * (steps + 4) * step_ns < 0.8 * PATIENCE * 1e9)
    source = random.Random(seed)
    gpu = FakeGpu(launch=lambda: launch + source.random() * jitter, skew=skew)
    run = generated(Run(gpu, syncs=syncs, step_ns=step_ns, host_ns=host_ns), frames, steps)
    batch = run.finish()
    for span, name in SPANS.items():
        truth = getattr(run, name)
        if not truth:
            continue
        (block,) = blocks(batch, span, semconv.Clock.DEVICE)
        assert len(block) == len(truth)
        assert (errors(block, truth).max(axis=1) <= stated(batch, block) + 2).all()  # ns: times are whole numbers
    check_tree(batch)


@given(skew=st.floats(-5e-5, 5e-5), step_ns=st.floats(20 * US, 40 * MS))
@examples(max_examples=40, deadline=None)
def test_a_steps_duration_is_the_devices_own(skew: float, step_ns: float) -> None:
    """A duration has no share in the error of the place: the resolution at both ends, a float32's rounding, and the
    drift.
    """
    run = generated(Run(FakeGpu(skew=skew), step_ns=step_ns))
    (block,) = blocks(run.finish(), semconv.STEP, semconv.Clock.DEVICE)
    truth = np.array([end - start for start, end in run.steps])
    assert (np.abs((block.end - block.start) - truth) <= 2 * 500 + 2 * 20 + truth * 5e-5).all()


def test_a_model_that_waits_by_itself_gives_times_to_microseconds() -> None:
    """With a launch of 5 us and a wake-up of 10 us, the error that is stated is below 20 us."""
    batch = generated(Run(FakeGpu())).finish()
    (block,) = blocks(batch, semconv.STEP, semconv.Clock.DEVICE)
    assert stated(batch, block).max() < 20 * US


def test_nothing_synchronises() -> None:
    """The fake raises where CUDA would wait; the same code would be seen if it asked."""
    gpu = FakeGpu()
    for wait in (gpu.synchronize, gpu.main.synchronize, gpu.pool.take().synchronize):  # type: ignore[union-attr]
        with pytest.raises(Synchronised):
            wait()
    before = gpu.host.at
    run = Run(gpu, syncs=False, step_ns=50 * MS, host_ns=1)
    run.frame()
    assert gpu.main.until - gpu.host.at > 200 * MS, "the host ran ahead of 250 ms of work"
    assert gpu.host.at - before < 1 * MS


def test_a_device_that_is_behind_ends_the_generation_when_it_is_done() -> None:
    """A model that never waits returns early; its spans end when the device has ended, and their parents hold them."""
    run = generated(Run(FakeGpu(), syncs=False, step_ns=20 * MS))
    returned = run.timeline.generate_end
    assert returned is not None
    batch = run.finish()
    (block,) = blocks(batch, semconv.STEP, semconv.Clock.DEVICE)
    assert block.end.max() > returned
    check_tree(batch)


def test_a_device_that_never_comes_by_leaves_the_hosts_times() -> None:
    """After a bounded wait, off the model's thread, everything is there by the host's clock, and says nothing else."""
    gpu = FakeGpu()
    run = Run(gpu, syncs=False)
    run.frame()
    gpu.kernel(3600e9)
    run.frame()
    run.end()
    began = gpu.host.at
    batch = run.finish()
    assert gpu.host.at - began < 5e9
    (device,), (host,) = (blocks(batch, semconv.STEP, clock) for clock in (semconv.Clock.DEVICE, semconv.Clock.HOST))
    assert (len(device), len(host)) == (5, 5), "a frame is wholly on one clock, and no block on two"
    check_tree(batch)


def test_a_lost_device_leaves_the_hosts_times_and_the_service_running() -> None:
    """CUDA's errors stick: after the first nothing is asked any more, and nothing is raised."""
    gpu = FakeGpu()
    run = Run(gpu)
    run.frame()
    gpu.lost = True
    run.frame()
    recorded = gpu.recorded
    run.frame()
    assert gpu.recorded == recorded
    run.end()
    batch = run.finish()
    assert sum(len(b) for b in batch.blocks if b.span is semconv.STEP) == 15
    assert not blocks(batch, semconv.STEP, semconv.Clock.DEVICE)


def test_during_a_capture_nothing_is_recorded_or_asked() -> None:
    """The frame in which a graph is captured is the host's; those around it the device's. The fake fails on a query
    meanwhile.
    """
    gpu = FakeGpu()
    run = Run(gpu)
    run.frame()
    before = gpu.recorded
    gpu.capturing = True
    run.frame()
    assert gpu.recorded == before
    run.notes.placing.collect()
    gpu.capturing = False
    run.frame()
    run.end()
    batch = run.finish()
    (device,), (host,) = (blocks(batch, semconv.STEP, clock) for clock in (semconv.Clock.DEVICE, semconv.Clock.HOST))
    assert len(host) == 5
    assert len(device) in {5, 10}  # the frame before has lost its successor's entry, and may be the host's too
    check_tree(batch)


def test_a_long_stream_is_drained_only_as_far_as_the_device_got() -> None:
    """A drained frame is never taken before its device times are known, and draining changes no time."""
    gpu = FakeGpu()
    run = Run(gpu, syncs=False, step_ns=10 * MS)
    pieces = assembly(run.timeline)
    for _ in range(4):
        run.frame()
    batch = pieces.drain()
    assert batch is None or len(batch.block(semconv.FRAME) or ()) < 3, "the device is still busy with the first"
    gpu.host.pass_(1e9)
    batch = pieces.drain()
    assert batch is not None
    (block,) = blocks(batch, semconv.STEP, semconv.Clock.DEVICE)
    assert errors(block, run.steps[: len(block)]).max() < 1e6
    assert len(block) == 15


@pytest.mark.parametrize(("syncs", "pause"), [(True, LOOK_SEEN), (False, LOOK)])
def test_a_look_reads_no_mark_before_a_frame_has_ended(
    monkeypatch: pytest.MonkeyPatch, *, syncs: bool, pause: float
) -> None:
    """Twenty looks a second at eight streams cost an H100's slow host more than all that they found. A model that was
    seen to wait is looked at once a second.
    """
    gpu = FakeGpu()
    run = Run(gpu, syncs=syncs)
    placing, collect = run.notes.placing, Placing.collect
    collected: list[int] = []
    monkeypatch.setattr(Placing, "collect", lambda self: (collected.append(len(run.notes.marks)), collect(self))[1])
    run.frame()
    for _ in range(10):
        placing.look()
    run.frame()
    gpu.host.pass_(1e9)
    for _ in range(10):
        placing.look()
    assert len(collected) == 2, "one look for each frame that was entered"
    assert placing.look() == pause
    assert placing.placed.frames


def test_what_the_device_has_not_passed_is_looked_at_again_soon() -> None:
    gpu = FakeGpu()
    run = Run(gpu, syncs=False)
    run.frame()
    gpu.kernel(1e9)
    run.frame()
    assert run.notes.placing.look() == LOOK
    assert not run.notes.placing.placed.frames
    gpu.host.pass_(1.5e9)
    run.notes.placing.look()
    assert len(run.notes.placing.placed.frames) == 1


def test_rare_looks_lose_no_truth_where_the_thread_saw_the_frames_done() -> None:
    """The bound that the thread itself notes is the closer one: with no look until the end no error grows, and none is
    understated.
    """

    def run_once(*, often: bool) -> tuple[np.ndarray, float]:
        gpu = FakeGpu()
        run = Run(gpu)
        for _ in range(20):
            run.frame()
            if often:
                run.notes.placing.look()
        run.end()
        batch = run.finish()
        frames, (steps,) = batch.block(semconv.FRAME), blocks(batch, semconv.STEP, semconv.Clock.DEVICE)
        assert frames is not None
        error = np.asarray(frames.attributes[semconv.CLOCK_ERROR.key])
        return error, errors(steps, run.steps).max()

    (rare, off), (often, _) = run_once(often=False), run_once(often=True)
    assert len(rare) == 20
    assert (rare <= often + 1e-9).all()
    assert off <= rare.max() * 1e9 + US


def test_events_come_back_to_the_pool() -> None:
    """An hour of speech needs as many events as are on their way, not as many as it has steps."""
    gpu = FakeGpu()
    run = Run(gpu)
    pieces = assembly(run.timeline)
    for _ in range(200):
        run.frame()
        pieces.drain()
    assert gpu.recorded > 2000
    assert gpu.pool._made < 60
    run.end()
    pieces.finish(end=gpu.host.at + MS)
    assert gpu.pool._made == len(gpu.pool._free), "none is on loan"


def test_an_empty_pool_costs_the_device_times_and_nothing_else() -> None:
    """When the device never comes by, the pool's limit bounds what is lent."""
    gpu = FakeGpu(pool_limit=10)
    run = Run(gpu)
    for _ in range(3):
        run.frame()
    run.end()
    batch = run.finish()
    assert gpu.pool._made <= 10
    assert sum(len(b) for b in batch.blocks if b.span is semconv.STEP) == 15


def test_idle_is_what_the_host_left_between_the_parts() -> None:
    """A host that dawdles 5 ms between two parts of each frame leaves the card idle for at least that; one that runs
    ahead leaves none.
    """
    gpu = FakeGpu()
    slow = Run(gpu, host_ns=1 * US)
    for _ in range(3):
        slow.frame()
        gpu.host.pass_(20 * MS)
    slow.end()
    frames = slow.finish().block(semconv.FRAME)
    assert frames is not None
    share = np.asarray(frames.attributes[semconv.FRAME_IDLE_SHARE.key])
    assert (share[:2] * frames.seconds[:2] >= 0.015).all()
    ahead = Run(FakeGpu(), host_ns=1 * US, syncs=False)
    for _ in range(3):
        ahead.frame()
    ahead.end()
    frames = ahead.finish().block(semconv.FRAME)
    assert frames is not None
    assert np.asarray(frames.attributes[semconv.FRAME_IDLE_SHARE.key])[1:].max() < 0.01


def test_launching_and_queueing_are_kept_apart() -> None:
    """Where the stream was dry the delay is the launch's; where it had work, the queue's;
    a step has one or the other.
    """
    dry = generated(Run(FakeGpu(launch=20 * US), step_ns=10 * US, pass_ns=10 * US, host_ns=300 * US)).finish()
    (block,) = blocks(dry, semconv.STEP, semconv.Clock.DEVICE)
    launch, queue = block.measures["launch_latency"], block.measures["queue_latency"]
    assert (np.isnan(launch) != np.isnan(queue)).all()
    # Only a frame's first step finds the stream dry: before each other one the step before has just put its last kernel
    # in.
    assert (~np.isnan(launch)).tolist() == [False] * 5 + [True, False, False, False, False] * 2
    assert np.nanmedian(launch) == pytest.approx(20e-6, abs=15e-6)
    busy = generated(Run(FakeGpu(), syncs=False, step_ns=10 * MS, host_ns=1 * US)).finish()
    (block,) = blocks(busy, semconv.STEP, semconv.Clock.DEVICE)
    assert np.isnan(block.measures["launch_latency"]).all()
    assert np.nanmax(block.measures["queue_latency"]) > 0.05
