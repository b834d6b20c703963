"""Apple's GPU: it tells of its memory, and times stay the host's."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest

from tests.fake_gpu.device import FakeGpu
from tests.unit.gpu.simulated import Run, blocks
from vibevoice_otel import semconv
from vibevoice_otel.metrics import gpu as gpu_metrics
from vibevoice_otel.recording.device.mps import MpsDevice

MIB = 1 << 20


def opened(**more: Any) -> tuple[MpsDevice, types.SimpleNamespace]:
    """The device on a stand-in for torch.mps; whatever else it called, an event or a synchronisation, would raise
    AttributeError.
    """
    torch_mps = types.SimpleNamespace(held=5 * MIB, driver_allocated_memory=lambda: 9 * MIB, **more)
    torch_mps.current_allocated_memory = lambda: torch_mps.held
    return MpsDevice(torch_mps), torch_mps


@pytest.mark.parametrize("limit", [16 * MIB, None])
def test_its_memory_is_what_it_tells(limit: int | None) -> None:
    """Allocated, reserved, and a limit where torch is new enough to know one; no peak, no events, nothing of other
    processes.
    """
    device, _ = opened(**({"recommended_max_memory": lambda: limit} if limit else {}))
    assert device.memory().known() == {"allocated": 5 * MIB, "reserved": 9 * MIB, **({"limit": limit} if limit else {})}
    look = gpu_metrics.MemoryReader(lambda: [device])
    assert list(look.figures(semconv.GPU_MEMORY)) == [(5 * MIB, {"device_id": "0"})]
    assert list(look.figures(semconv.GPU_MEMORY_PEAK)) == []
    assert list(look.figures(semconv.GPU_MEMORY_EVENTS)) == []


def test_times_are_the_hosts_and_growth_is_told() -> None:
    """No event is made, no step claims the device's clock, and what a step took of memory is known all the same."""
    device, torch_mps = opened()
    gpu = FakeGpu()
    run = Run(gpu)
    run.notes = type(run.notes)(run.timeline.runs[0], device, gpu.host)
    run.timeline.runs[0].device = run.notes
    run.notes.begin()
    kernel = gpu.kernel

    def growing(nanoseconds: float, host_cost: float = 3000.0) -> tuple[float, float]:
        torch_mps.held += MIB
        return kernel(nanoseconds, host_cost)

    gpu.kernel = growing  # type: ignore[method-assign]
    run.frame()
    run.frame()
    run.end()
    batch = run.finish()
    assert gpu.recorded == 0
    assert not blocks(batch, semconv.STEP, semconv.Clock.DEVICE)
    (block,) = [block for block in batch.blocks if block.span is semconv.STEP]
    assert len(block) == 10
    growth = block.measures["memory_increase"]
    assert (growth[:5] == 3 * MIB).all()
    assert np.isnan(growth[5:]).all()
    generate = batch.operation(semconv.GENERATE)
    assert generate is not None
    assert generate.attributes[semconv.REQUEST_MEMORY_PEAK.key] == torch_mps.held
