"""The benchmark's own arithmetic, and its every part that needs no card: on a GPU it must run at the first try."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import gpu
from vibevoice_otel import semconv
from vibevoice_otel.recording.records import Block


def trace() -> dict[str, list[dict[str, object]]]:
    """Two steps: kernels 10-14 and 13-20 us (one over the other), then 30-31 and 39-40; a copy before the first belongs to neither."""

    def launch(ts: float, correlation: int, name: str = "cudaLaunchKernel") -> dict[str, object]:
        return {"cat": "cuda_runtime", "name": name, "ts": ts, "dur": 1, "args": {"correlation": correlation}}

    def work(ts: float, end: float, correlation: int, kind: str = "kernel") -> dict[str, object]:
        return {"cat": kind, "name": "k", "ts": ts, "dur": end - ts, "args": {"correlation": correlation}}

    def mark(ts: float, name: str) -> dict[str, object]:
        return {"cat": "user_annotation", "name": name, "ts": ts, "dur": 0.1}

    return {
        "traceEvents": [
            launch(1, 1, "cudaMemcpyAsync"), work(2, 3, 1, "gpu_memcpy"), mark(5, gpu.BASE), launch(6, 2), launch(7, 3), mark(9, gpu.STEP),
            work(10, 14, 2), work(13, 20, 3), launch(10, 4), launch(11, 5), mark(12, gpu.STEP), work(30, 31, 4), work(39, 40, 5),
            launch(13, 6, "cudaStreamSynchronize"), launch(14, 7, "cudaStreamSynchronize"), mark(15, gpu.STEP),
        ]
    }  # fmt: skip


def test_a_kernel_belongs_to_the_step_in_which_it_was_launched() -> None:
    """The interval runs from the first start to the last end, gaps included; busy counts overlapping kernels once."""
    first, second, third = gpu.truths(trace())
    assert first == gpu.Truth(10, 10)
    assert second == gpu.Truth(10, 2)
    assert third is None


def test_synchronisations_are_counted_by_name() -> None:
    """What makes the host wait, and nothing else."""
    assert gpu.waits(trace()) == {"cudaStreamSynchronize": 2}


def steps(clock: str, count: int = 3) -> Block:
    ends = np.array([20, 40, 41][:count]) * 1000
    ids = np.arange(count, dtype=np.uint64)
    host = np.array([4e-6, 3e-6, 1e-6][:count])
    attributes = {semconv.CLOCK.key: clock, semconv.HOST_DURATION.key: host}
    return Block(semconv.STEP, np.array([9, 29, 40][:count]) * 1000, ends, ids, ids, attributes)


def test_comparison() -> None:
    """Ours, the kernels', the busy time and the CPU timer's claim, of the same steps; one that launched nothing is left out."""
    result = gpu.compare([steps(semconv.Clock.DEVICE)], trace())
    assert result.ours == pytest.approx([11, 11])
    assert result.kernels == [10, 10]
    assert result.naive == pytest.approx([4, 3])
    assert result.off == pytest.approx(1)
    assert result.allowed == 10


def test_host_times_are_not_compared() -> None:
    """A run that fell back to the host's clock must not look like one that was measured."""
    with pytest.raises(ValueError, match="not timed by the device"):
        gpu.compare([steps(semconv.Clock.HOST)], trace())


def test_runs_of_different_length_are_not_compared() -> None:
    """Neither side may have lost a step."""
    with pytest.raises(ValueError, match="2 steps are recorded and 3 were profiled"):
        gpu.compare([steps(semconv.Clock.DEVICE, 2)], trace())


def test_it_runs_as_far_as_a_cpu_goes() -> None:
    """A tiny model, profiled with and without us, and streams at once: every step is seen on both sides, and no synchronisation."""
    subject = gpu.Subject.build("cpu", tiny=True)
    bare = subject.speak(3)
    with gpu.observed() as kept:
        subject.speak(1)
        found = gpu.recorded_run(subject, 3, kept)
        assert bool((subject.speak(3) == bare).all())
    recorded = sum(len(block) for block in kept.steps())
    assert len(gpu.truths(found)) == 3 * gpu.STEPS
    assert recorded == 2 * 3 * gpu.STEPS  # the profiled run, and the one after it
    assert gpu.waits(found) == {}
    assert gpu.frames_per_second(subject, 2, 2) > 0
