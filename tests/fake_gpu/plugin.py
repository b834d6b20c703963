"""The fake GPU in a service process under opentelemetry-instrument: real instruments and exporter, a card that is not
there.

The launcher loads what the group ``opentelemetry_pre_instrument`` names. :func:`environment` writes a distribution of
that group into a folder of the test's and puts it on the service's PYTHONPATH; no setting of the product, and no
package that is installed, leads here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.fake_gpu.device import FakeGpu
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.device.interface import Kernels, Memory

#: Path of the JSON file that holds the card's memory; read at each look, so a test can change it meanwhile.
MEMORY = "FAKE_GPU_MEMORY"
GIB = 1 << 30
START = Memory(2 * GIB, 3 * GIB, 2 * GIB, 8 * GIB, 5 * GIB, allocations=100, frees=40, retries=0, ooms=0)
ROOT = Path(__file__).resolve().parents[2]


def environment(folder: Path, **memory: int) -> dict[str, str]:
    """What a service needs in its environment to have a fake GPU; ``memory`` are fields of Memory that differ from
    START.
    """
    distribution = folder / "fake_gpu_for_tests-0.dist-info"
    distribution.mkdir(parents=True)
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-gpu-for-tests\nVersion: 0\n")
    (distribution / "entry_points.txt").write_text(
        "[opentelemetry_pre_instrument]\nfake_gpu = tests.fake_gpu.plugin:install\n"
    )
    path = folder / "memory.json"
    set_memory(path, **memory)
    before = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), str(ROOT), before))), MEMORY: str(path)}


def set_memory(path: Path, **memory: int) -> None:
    """Let the card's memory be START but for ``memory``; replaced at once, so that no reader sees half of it."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({**asdict(START), **memory}))
    new.replace(path)


def memory() -> Memory:
    return Memory(**json.loads(Path(os.environ[MEMORY]).read_text()))


class LiveProfiler:
    """Sees a kernel in the first quarter of each millisecond."""

    def start(self) -> None:
        self.began = time.time_ns()

    def stop(self) -> Callable[[], Kernels]:
        began, ended = self.began, time.time_ns()
        return lambda: [(at, at + 250_000) for at in range(began, ended, 1_000_000)]


class LiveGpu(FakeGpu):
    """The fake on the process's own clock; the model computes on the CPU, so the card has passed each event a launch
    later.
    """

    def memory(self) -> Memory:
        return memory()

    def profiler(self) -> LiveProfiler:  # type: ignore[override]
        return LiveProfiler()

    def allocated(self) -> int:
        return memory().allocated

    def peak(self) -> int | None:
        return memory().peak


class Now:
    """The real clock, with the face of HostClock."""

    def __call__(self) -> int:
        return now()

    @property
    def at(self) -> int:
        return now()


def install() -> None:
    """Have models on the CPU found on the fake GPU. Called by the launcher before any instrumentation."""
    from vibevoice_otel.recording import device

    gpu: Any = LiveGpu(host=Now())
    device.OPENERS["cpu"] = lambda _index: gpu
    device.opened("cpu", 0)
