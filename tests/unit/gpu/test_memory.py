"""Memory by the allocator's own counters: gauges, the growth of a step, a request's peak, and what an out-of-memory
error leaves behind.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.fake_gpu.device import FakeGpu
from tests.support.metrics import by_name
from tests.unit.gpu.simulated import Run, blocks
from vibevoice_otel import semconv
from vibevoice_otel.metrics import gpu as gpu_metrics
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.recording.device import cuda
from vibevoice_otel.recording.device.interface import Memory
from vibevoice_otel.recording.device.notes import MEMORY_EVERY

MIB = 1 << 20


class Growing(FakeGpu):
    """Each step takes ``by`` bytes, as each recorded event finds."""

    by = MIB

    def grow(self) -> None:
        held = self.counters.allocated + self.by
        self.counters = dataclasses.replace(
            self.counters, allocated=held, reserved=held, peak=max(held, self.counters.peak or 0)
        )

    def kernel(self, nanoseconds: float, host_cost: float = 3000.0) -> tuple[float, float]:
        self.grow()
        return super().kernel(nanoseconds, host_cost)


def points(*register: Any) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What instruments told after ``register(instruments)``: name -> [(attributes, value, sum or count)]."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    instruments = Instruments(provider, "0", Limits(2000, 50_000))
    for each in register:
        each(instruments)
    metrics = by_name(reader)
    provider.shutdown()
    return {
        name: [(dict(p.attributes), p.value if hasattr(p, "value") else p.sum) for p in points]
        for name, points in metrics.items()
    }


def test_every_counter_of_every_card_is_told() -> None:
    """Two cards, each with its own label; the limit, what is free and the allocator's events included."""
    cards = [
        FakeGpu(id="0", counters=Memory(10, 30, 20, 100, 70, 5, 3, 1, 0)),
        FakeGpu(id="1", counters=Memory(11, 31, 21, 200, 71, 6, 4, 2, 1)),
    ]
    found = points(lambda i: gpu_metrics.register(i, gpu_metrics.MemoryReader(lambda: cards)))
    for metric, expected in (
        (semconv.GPU_MEMORY, (10, 11)), (semconv.GPU_MEMORY_RESERVED, (30, 31)), (semconv.GPU_MEMORY_PEAK, (20, 21)),
        (semconv.GPU_MEMORY_LIMIT, (100, 200)), (semconv.GPU_MEMORY_FREE, (70, 71)),
    ):  # fmt: skip
        assert found[metric.name] == [({"device_id": "0"}, expected[0]), ({"device_id": "1"}, expected[1])]
    events = {(a["device_id"], a["event"]): value for a, value in found[semconv.GPU_MEMORY_EVENTS.name]}
    assert events == {
        ("0", "alloc"): 5, ("0", "free"): 3, ("0", "retry"): 1, ("0", "oom"): 0,
        ("1", "alloc"): 6, ("1", "free"): 4, ("1", "retry"): 2, ("1", "oom"): 1,
    }  # fmt: skip


def test_what_a_device_does_not_tell_is_absent() -> None:
    """Apple's GPU knows no events and nothing of other processes: there is no zero in their place."""
    card = FakeGpu(counters=Memory(10, 30, limit=100))
    found = points(lambda i: gpu_metrics.register(i, gpu_metrics.MemoryReader(lambda: [card])))
    assert set(found) == {semconv.GPU_MEMORY.name, semconv.GPU_MEMORY_RESERVED.name, semconv.GPU_MEMORY_LIMIT.name}


def test_without_a_device_there_is_nothing() -> None:
    """On a CPU no gauge is there, and CUDA is not initialised by looking."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA: the test is about one that has not")
    assert points(gpu_metrics.register) == {}
    assert cuda.in_use() == []


def test_a_device_that_fails_costs_its_own_points_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """CUDA's errors stick; the other card, and the other metrics, go on."""

    class Broken(FakeGpu):
        def memory(self) -> Memory:
            raise RuntimeError("CUDA error")

    look = gpu_metrics.MemoryReader(lambda: [Broken(id="0"), FakeGpu(id="1")], clock=iter(range(100)).__next__)
    assert [a["device_id"] for _, a in look.figures(semconv.GPU_MEMORY)] == ["1"]
    assert [a["device_id"] for _, a in look.figures(semconv.GPU_MEMORY)] == ["1"]
    assert len(caplog.records) == 1


def test_the_peak_survives_a_service_that_resets_it() -> None:
    """We never reset torch's high-water mark; a service that does cannot make ours fall."""
    card = FakeGpu(counters=Memory(10, 30, peak=50))
    look = gpu_metrics.MemoryReader(lambda: [card], clock=iter(range(100)).__next__)
    assert [value for value, _ in look.figures(semconv.GPU_MEMORY_PEAK)] == [50]
    card.counters = Memory(10, 30, peak=10)
    assert [value for value, _ in look.figures(semconv.GPU_MEMORY_PEAK)] == [50]


def test_a_steps_growth_is_what_the_allocator_says() -> None:
    """Three kernels of one MiB each in a step: 3 MiB, looked at in the first frame and each so-many-th; never in
    between.
    """
    run = Run(Growing())
    for _ in range(MEMORY_EVERY + 1):
        run.frame()
    run.end()
    (block,) = blocks(run.finish(), semconv.STEP, semconv.Clock.DEVICE)
    looked = np.isin(np.arange(len(block)) // 5, (0, MEMORY_EVERY))
    assert (block.measures["memory_increase"][looked] == 3 * MIB).all()
    assert (block.measures["memory_decrease"][looked] == 0).all()
    assert np.isnan(block.measures["memory_increase"][~looked]).all()


def test_an_allocator_that_keeps_no_counters_costs_no_times() -> None:
    """Torch allows an allocator of the user's own, whose counters cannot be read: it is asked once, and the steps have
    device times.
    """

    class Silent(FakeGpu):
        asked = 0

        def allocated(self) -> int:
            self.asked += 1
            raise RuntimeError("does not yet support getDeviceStats")

        def peak(self) -> int | None:
            return self.allocated()

    gpu = Silent()
    run = Run(gpu)
    begun = gpu.asked
    for _ in range(2 * MEMORY_EVERY + 1):
        run.frame()
    assert gpu.asked - begun == 1
    run.end()
    batch = run.finish()
    (block,) = blocks(batch, semconv.STEP, semconv.Clock.DEVICE)
    assert len(block) == 5 * (2 * MEMORY_EVERY + 1)
    assert "memory_increase" not in block.measures


def test_growth_is_charged_only_while_no_other_generation_ran() -> None:
    """The counters are the process's: beside another request, or one that came and went meanwhile, a step's change is
    nobody's.
    """
    gpu = Growing()
    run = Run(gpu)
    gpu.generations.begin(2)
    run.frame()
    gpu.generations.end(2)
    run.end()
    (block,) = blocks(run.finish(), semconv.STEP, semconv.Clock.DEVICE)
    assert "memory_increase" not in block.measures

    gpu = Growing()
    run = Run(gpu)
    at = iter(range(1000))

    def visited(nanoseconds: float, host_cost: float = 0.0) -> tuple[float, float]:
        if next(at) == 5:
            gpu.generations.begin(2)
            gpu.generations.end(2)
        return Growing.kernel(gpu, nanoseconds, host_cost)

    gpu.kernel = visited  # type: ignore[method-assign]
    run.frame()
    run.end()
    (block,) = blocks(run.finish(), semconv.STEP, semconv.Clock.DEVICE)
    assert np.isnan(block.measures["memory_increase"]).tolist() == [False, True, False, False, False]


def test_growth_and_device_times_reach_the_histograms() -> None:
    """Increase by step, launch latency by device: only what was measured is counted, and no series has both clocks."""
    run = Run(Growing(), host_ns=300_000)
    run.frame()
    run.frame()
    run.end()
    batch = run.finish()
    assert batch.device_id == "0"
    found = points(lambda i: FromSpans(i, tuple(str(n) for n in range(9)), 0.45).consume(batch))
    assert sum(value for _, value in found[semconv.MEMORY_INCREASE.name]) == 5 * 3 * MIB
    assert {a["clock"] for a, _ in found[semconv.INFERENCE.name]} == {"device"}
    latencies = [*found.get(semconv.LAUNCH_LATENCY.name, []), *found.get(semconv.DEVICE_QUEUE.name, [])]
    assert latencies
    assert all(a == {"device_id": "0"} for a, _ in latencies)


@pytest.mark.parametrize("risen", [True, False])
def test_a_requests_peak(risen: bool) -> None:
    """Torch's high-water mark where this request raised it; under an older, higher mark the largest that was seen at a
    step.
    """
    gpu = Growing(counters=Memory(0, 0, 0 if risen else 1 << 40))
    run = Run(gpu)
    run.frame()
    run.end()
    generate = run.finish().operation(semconv.GENERATE)
    assert generate is not None
    assert generate.attributes[semconv.REQUEST_MEMORY_PEAK.key] == gpu.counters.allocated


def test_out_of_memory_leaves_the_allocators_state_on_the_span() -> None:
    """Allocated, reserved, fragmented, free, limit, retries, errors: as they were when it happened; none of it on a
    healthy request.
    """
    gpu = FakeGpu(counters=Memory(70, 78, 72, 80, 2, 10, 5, 3, 1))
    run = Run(gpu)
    run.frame()
    run.timeline.runs[0].error = "OutOfMemoryError"
    run.end(failed=True)
    gpu.counters = Memory(0, 0, 72, 80, 80, 10, 15, 3, 1)  # by the time that the span is made, all has been given back
    generate = run.finish().operation(semconv.GENERATE)
    assert generate is not None
    assert generate.error_type == "OutOfMemoryError"
    expected = {"allocated": 70, "reserved": 78, "fragmented": 8, "free": 2, "limit": 80, "retries": 3, "ooms": 1}
    assert {
        f"vibevoice.gpu.memory.{name}": value for name, value in expected.items()
    }.items() <= generate.attributes.items()
    healthy = Run(FakeGpu())
    healthy.frame()
    healthy.end()
    generate = healthy.finish().operation(semconv.GENERATE)
    assert generate is not None
    assert semconv.MEMORY_ALLOCATED.key not in generate.attributes
