"""The benchmark's own arithmetic, and its every part that needs no card: on a GPU it must run at the first try."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from benchmarks import gpu
from tests.fake_gpu.device import FakeGpu
from tests.fake_gpu.plugin import Now
from vibevoice_otel import semconv
from vibevoice_otel.recording import device
from vibevoice_otel.recording.records import Block


def trace() -> dict[str, list[dict[str, object]]]:
    """Two steps: kernels 10-14 and 13-20 us (one over the other), then 30-31 and 39-40; a copy before the first belongs
    to neither.
    """

    def launch(ts: float, correlation: int, name: str = "cudaLaunchKernel") -> dict[str, object]:
        return {"cat": "cuda_runtime", "name": name, "ts": ts, "dur": 1, "args": {"correlation": correlation}}

    def work(ts: float, end: float, correlation: int, kind: str = "kernel") -> dict[str, object]:
        return {"cat": kind, "name": "k", "ts": ts, "dur": end - ts, "args": {"correlation": correlation}}

    def mark(ts: float, name: str) -> dict[str, object]:
        return {"cat": "user_annotation", "name": name, "ts": ts, "dur": 0.1}

    return {
        "traceEvents": [
            launch(1, 1, "cudaMemcpyAsync"), work(2, 3, 1, "gpu_memcpy"), mark(5, gpu.BASE), launch(6, 2), launch(7, 3),
            mark(9, gpu.STEP),
            work(10, 14, 2), work(13, 20, 3), launch(10, 4), launch(11, 5), mark(12, gpu.STEP), work(30, 31, 4),
            work(39, 40, 5),
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
    """What makes the host wait, and nothing else; under whichever name CUPTI has for it."""
    assert gpu.waits(trace()) == {"cudaStreamSynchronize": 2}
    names = (
        "cudaStreamSynchronize_v3020",
        "cudaStreamSynchronize_ptsz",
        "cudaEventSynchronize_v3020",
        "cudaLaunchKernel_v7000",
    )
    found = gpu.waits({"traceEvents": [{"cat": "cuda_runtime", "name": name} for name in names]})
    assert found == {"cudaStreamSynchronize": 2, "cudaEventSynchronize": 1}


def steps(clock: str, count: int = 3) -> Block:
    ends = np.array([20, 40, 41][:count]) * 1000
    ids = np.arange(count, dtype=np.uint64)
    host = np.array([4e-6, 3e-6, 1e-6][:count])
    attributes = {semconv.CLOCK.key: clock, semconv.HOST_DURATION.key: host}
    return Block(semconv.STEP, np.array([9, 29, 40][:count]) * 1000, ends, ids, ids, attributes)


def test_comparison() -> None:
    """Ours, the kernels', the busy time and the CPU timer's claim, of the same steps; one that launched nothing is left
    out.
    """
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


def test_a_profiler_that_saw_no_kernel_is_no_truth() -> None:
    """Where it has no access to the card there is nothing to compare with, and that is what is said."""
    marks = [event for event in trace()["traceEvents"] if event["cat"] == "user_annotation"]
    with pytest.raises(ValueError, match="saw no kernel"):
        gpu.compare([steps(semconv.Clock.DEVICE)], {"traceEvents": marks})


def test_it_runs_as_far_as_a_cpu_goes() -> None:
    """A tiny model, profiled with and without us, and streams at once: every step is seen on both sides, and no
    synchronisation.
    """
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


def test_a_stream_that_fails_fails_the_measurement() -> None:
    """A thread that died early would make the others look fast."""

    class Broken:
        def speak(self, frames: int, seed: int) -> None:
            raise MemoryError

    with pytest.raises(MemoryError):
        gpu.frames_per_second(Broken(), 2, 1)  # type: ignore[arg-type]


def test_the_limit_is_said_in_one_line() -> None:
    """By the profiler's share, and by the frames' own division of their time."""
    compared = gpu.Compared(ours=[1000.0], kernels=[900.0], busy=[87.0], naive=[1000.0])
    told = gpu.limit_line(compared, {"card": 1.0, "core": 9.0, "error": 0.01})
    assert told == (
        "kernels at work in 8.7% of a step as the model runs; of the frames' time: the card 10%, the host's core 90%. "
        "The limit: the host's core"
    )


class Waits(TorchDispatchMode):
    """Notes what would make the host wait for a card: a copy between it and the CPU, and a question about a value that
    lies on it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        first = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if (
            first is not None
            and first.is_cuda
            and any(name in str(function) for name in ("_local_scalar_dense", "nonzero", "item"))
        ):
            self.seen.append(str(function))
        result = function(*args, **(kwargs or {}))
        if first is not None and "copy" in str(function) and first.is_cuda is not result.is_cuda:
            self.seen.append(str(function))
        return result


@pytest.mark.parametrize("ahead", [False, True])
def test_queued_ahead_no_step_waits(ahead: bool) -> None:
    """On tensors that claim to lie on a card: as transformers has it each step waits for its timestep; queued ahead
    none does.
    """
    subject = gpu.Subject.build("meta", tiny=False)
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    waits, of_steps = Waits(), 0
    with ExitStack() as stack:
        if ahead:
            stack.enter_context(gpu.ahead("cpu"))
        begin = diffusers.DPMSolverMultistepScheduler.set_timesteps

        def set_timesteps(self: Any, num_inference_steps: int) -> None:
            nonlocal of_steps
            with _disable_current_modes():  # it asks numpy, which knows no fake
                begin(self, num_inference_steps=num_inference_steps)
            if ahead:
                self.timesteps = self.timesteps.to("cuda")
            of_steps = len(waits.seen)

        patched = stack.enter_context(pytest.MonkeyPatch.context())  # undone before ``ahead`` is left
        patched.setattr(diffusers.DPMSolverMultistepScheduler, "set_timesteps", set_timesteps)
        # The one question about a value, of timesteps that really lie on the CPU, which a fake tensor cannot answer.
        patched.setattr(scheduler, "index_for_timestep", lambda _timestep: 0)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            for module in subject.model.modules():
                for own in (module._parameters, module._buffers):
                    for name, each in own.items():
                        if each is not None:
                            there = torch.empty(each.shape, dtype=each.dtype, device="cuda")
                            own[name] = (
                                torch.nn.Parameter(there, requires_grad=False) if own is module._parameters else there
                            )
            condition = torch.empty(1, 1536, dtype=torch.bfloat16, device="cuda")
            with waits:
                latent = subject.model._sample_audio_latent(condition, condition, scheduler, gpu.STEPS, 1.5)
            assert latent.is_cuda
    assert len(waits.seen) - of_steps == (0 if ahead else gpu.STEPS)


def test_the_whole_benchmark_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the command line to the files, the card and the profiler's view of it being made up: the device times come
    from a fake.
    """
    card: Any = FakeGpu(host=Now())
    for kind in ("cpu", "cuda"):
        monkeypatch.setitem(device.OPENERS, kind, lambda _index: card)
    monkeypatch.setattr(device, "_devices", {})
    monkeypatch.setattr(gpu, "no_card", lambda: None)
    monkeypatch.setattr(gpu, "STREAMS", (1, 2))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "a made-up card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _index: (0, 0))
    build, ahead = gpu.Subject.build, gpu.ahead
    monkeypatch.setattr(gpu.Subject, "build", lambda _device, *, tiny: build("cpu", tiny=tiny))
    entered: list[str] = []

    @contextmanager
    def on_the_cpu(device: str) -> Iterator[None]:
        entered.append(device)
        with ahead("cpu"):
            yield

    monkeypatch.setattr(gpu, "ahead", on_the_cpu)
    marked = gpu.truths
    monkeypatch.setattr(gpu, "truths", lambda trace: [gpu.Truth(1000.0, 500.0) for _ in marked(trace)])
    monkeypatch.setattr(sys, "argv", ["gpu", "--quick", "--rounds", "1", "--out", str(tmp_path)])
    before = set(threading.enumerate())
    gpu.main()
    report = (tmp_path / "gpu.txt").read_text()
    assert entered == ["cuda"]
    assert "a made-up card, the demo's tiny architecture, 10 steps a frame" in report
    assert "no synchronisation added: {} without us, {} with" in report
    assert "a step's mark, on the host" in report
    assert "2 streams, frames a second, observed" in report
    assert "kernels at work in" in report
    assert "The limit: cannot say" in report  # some frames of a tiny model are not seconds
    assert set(threading.enumerate()) <= before
