"""A sample of the truth: kernels' share of one frame and its parts, taken only when it hurts nobody, and told with what
it cost.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from tests.fake_gpu.device import MS, US, FakeGpu
from tests.unit.gpu.simulated import Run
from vibevoice_otel import semconv
from vibevoice_otel.recording.device import profile
from vibevoice_otel.recording.device.placing import Interval
from vibevoice_otel.recording.device.profile import Sample, Sampler, Taken
from vibevoice_otel.recording.records import Block


def taken(kernels: list[tuple[int, int]], began: int = 0, ended: int = 100) -> Taken:
    return Taken(began, ended, 1_000, 0.0, 0.0, lambda: [(a + 1_000, b + 1_000) for a, b in kernels])


def test_a_share_counts_overlapping_kernels_once() -> None:
    """The union of the kernels, cut to the frame and to each interval of a part."""
    sample = taken([(60, 90), (-10, 10), (20, 40), (30, 50), (35, 37)])
    shares = sample.shares({"steps": [Interval(0, 20), Interval(40, 60)], "decode": [Interval(90, 100)], "passes": []})
    assert shares.by_part == pytest.approx({"frame": 0.7, "steps": 0.5, "decode": 0.0})


def test_a_profiler_that_saw_nothing_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Without access to CUPTI there is no share of 0, but none, and a line that says why."""
    assert taken([]).shares({}).by_part == {}
    assert "CUPTI" in caplog.text


def sampled(run: Run, frames: int = 5) -> Block:
    host = run.gpu.host
    run.notes.sample = Sample(run.gpu, lambda: True, run.notes.placing.samples, host, host)
    for _ in range(frames):
        run.frame()
    run.end()
    block = run.finish().block(semconv.FRAME)
    assert block is not None
    return block


@pytest.mark.parametrize(("host_ns", "low", "high"), [(1 * MS, 0.05, 0.5), (10 * US, 0.85, 1.0)])
def test_the_share_is_the_cards_own(host_ns: float, low: float, high: float) -> None:
    """A slow host leaves the card idle within each step, a fast one does not; both in the same steps of 2 ms of
    kernels.
    """
    run = Run(FakeGpu(), host_ns=host_ns, kernels=4)
    block = sampled(run)
    column = np.asarray(block.attributes[semconv.KERNEL_SHARES["share_steps"].key], float)
    assert np.isnan(column).tolist() == [True, True, False, True, True]  # one frame, after two that warm it
    assert low < column[2] < high
    starts, ends = np.array(run.steps[10:15]).T
    assert column[2] == pytest.approx(5 * run.step_ns / (ends - starts).sum(), abs=0.02)
    assert block.attributes[semconv.KERNEL_SHARES["sample_cost"].key][2] >= 8e-3  # type: ignore[index]


def test_frames_that_the_profiler_slowed_tell_no_limit() -> None:
    """The sampled one, and the one before, from which its start took."""
    block = sampled(Run(FakeGpu()))
    assert np.isnan(block.measures["core"]).tolist() == [False, True, True, False, False]


def test_it_is_refused_while_another_profiler_runs() -> None:
    """There is one subscriber; the other one's trace goes on."""
    run = Run(FakeGpu(profiled=True))
    assert "share_frame" not in sampled(run).measures


def test_a_generation_that_ends_within_the_sampled_frame_stops_the_profiler() -> None:
    """Whatever happens, the process is not left under a profiler."""
    run = Run(FakeGpu())
    block = sampled(run, frames=3)
    assert run.gpu.profiling is None
    assert not np.isnan(block.measures["share_frame"][2])


def test_it_is_stopped_on_its_own_thread() -> None:
    """Torch's profiler belongs to the thread that started it: from another one it is left alone, and that is said."""
    run = Run(FakeGpu())
    sample = Sample(run.gpu, lambda: True, {}, run.gpu.host, run.gpu.host)
    for at in range(3):
        sample.frame(at)
    other = threading.Thread(target=sample.stop)
    other.start()
    other.join()
    assert run.gpu.profiling is not None


class Clock:
    at = 1_000.0

    def __call__(self) -> float:
        return self.at


def asked(*, sample: bool = False, sent_ago: float | None = None, delivered: int = 0) -> Any:
    timeline = Run(FakeGpu()).timeline
    timeline.asked.sample = sample
    timeline.first_send = None if sent_ago is None else profile.now() - round(sent_ago * 1e9)
    timeline.delivered = delivered
    return timeline


def test_when_a_frame_is_sampled() -> None:
    """On demand once in ten seconds; else once an interval and while the listener has a second of audio in hand; never
    beside another.
    """
    clock, requests = Clock(), [1]
    card = FakeGpu()
    sampler = Sampler(600, lambda: requests[0], clock)

    def may(timeline: Any) -> bool:
        sample = sampler.of(timeline, card, {})
        return sample is not None and sample._may()

    assert not may(asked(sent_ago=3.0, delivered=20))  # 2.7 s of audio, of which 3 have passed
    requests[0] = 2
    assert not may(asked(sample=True))
    requests[0] = 1
    listener = asked(sent_ago=1.0, delivered=20)
    assert may(listener)
    assert listener.profiled
    assert not may(asked(sample=True))
    clock.at += 11
    assert not may(asked(sent_ago=1.0, delivered=20))
    assert may(asked(sample=True))
    clock.at += 601
    assert may(asked(sent_ago=1.0, delivered=20))
    assert Sampler(None, lambda: 1, clock).of(asked(sent_ago=1.0, delivered=20), card, {}) is None
