"""On a real card: our intervals beside the profiler's, not one synchronisation more, and the same sound."""

from __future__ import annotations

import functools
import gc
import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.vibevoice.generation_vibevoice import VibeVoiceGenerationMixin

from benchmarks import card as card_benchmark
from benchmarks import gpu
from benchmarks.gpu import Subject
from vibevoice_otel import semconv
from vibevoice_otel.metrics import nvml
from vibevoice_otel.recording import device
from vibevoice_otel.recording.clock import Anchor, now
from vibevoice_otel.recording.device import StreamNotes
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.timeline import Timeline

from .conftest import FRAMES

Work = Callable[[], object]


def test_a_steps_interval_is_its_kernels(subject: Subject) -> None:
    """From the first kernel's start to the last one's end, gaps included: within 2 % in the median, or 10 us for short
    steps.

    Where the host is always ahead. Otherwise the card waits for it at both ends of a step, which lies between the
    events too.
    """
    with gpu.ahead(subject.device), gpu.observed() as kept:
        subject.speak(2)
        trace = gpu.recorded_run(subject, FRAMES, kept)
    result = gpu.compare(kept.steps(), trace)
    assert len(result.ours) == FRAMES * gpu.STEPS
    assert result.off <= result.allowed


def test_a_steps_interval_holds_its_kernels(subject: Subject) -> None:
    """As the model runs, waiting at each step: no kernel of a step lies outside its interval, but for the 10 us allowed
    above.
    """
    with gpu.observed() as kept:
        subject.speak(2)
        trace = gpu.recorded_run(subject, FRAMES, kept)
    result = gpu.compare(kept.steps(), trace)
    short = [kernels - ours for ours, kernels in zip(result.ours, result.kernels, strict=True)]
    assert np.median(short) <= 10


def test_not_one_synchronisation_is_added(subject: Subject) -> None:
    """The same seeded run with and without us: stream, event and device synchronisations and synchronous copies, by the
    profiler.

    With us the metrics are collected meanwhile, the card's memory among them.
    """
    without = gpu.waits(gpu.profiled(subject, FRAMES))
    with gpu.observed() as kept:
        subject.speak(2)
        with gpu.collecting(kept):
            with_us = gpu.waits(gpu.recorded_run(subject, FRAMES, kept))
    assert without == with_us
    assert without.get("cudaStreamSynchronize", 0) >= FRAMES, (
        "the model waits for its own audio; a profiler that saw none of it saw nothing"
    )


def test_the_sound_is_the_same(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same samples, observed or not."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    bare = subject.speak(FRAMES, seed=3)
    if not torch.equal(subject.speak(FRAMES, seed=3), bare):
        pytest.skip("on this GPU the model itself does not give the same samples twice")
    with gpu.observed():
        assert torch.equal(subject.speak(FRAMES, seed=3), bare)


def refusing(original: Callable[..., Any]) -> Callable[..., Any]:
    """``original``, within which torch makes every synchronisation an error."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return original(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    return call


def test_torch_refuses_what_waits() -> None:
    """What the next tests rely on: in this mode a copy to the CPU and a question about a value are errors, asking an
    event is none.
    """
    numbers, event = torch.ones(2, device="cuda"), torch.cuda.Event(enable_timing=True)
    event.record()
    for wait in (numbers.cpu, numbers[0].item, lambda: bool(numbers.any())):
        with pytest.raises(RuntimeError, match="synchronizing"):
            refusing(wait)()
    refusing(event.query)()
    refusing(torch.cuda.current_stream().query)()


def test_between_the_models_own_waits_nothing_waits(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a frame's first step to its last torch refuses to synchronise, as it does in each of our other hooks; the
    model speaks.

    The steps' interval is one in which the model itself does not wait, as it runs here (:func:`benchmarks.gpu.ahead`).
    """
    sample = VibeVoiceGenerationMixin._sample_audio_latent

    def until_the_last_step(*args: Any, **kwargs: Any) -> Any:
        try:
            return sample(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(VibeVoiceGenerationMixin, "_sample_audio_latent", until_the_last_step)
    for name, method in list(vars(StreamNotes).items()):
        if callable(method) and not name.startswith("__"):
            monkeypatch.setattr(StreamNotes, name, refusing(method))
    refused: list[int] = []

    def from_the_first_step() -> None:
        torch.cuda.set_sync_debug_mode("error")
        refused.append(torch.cuda.get_sync_debug_mode())

    with gpu.ahead(subject.device, from_the_first_step), gpu.observed() as kept:
        subject.speak(FRAMES)
    assert refused == [2] * FRAMES
    steps = kept.steps()
    assert sum(len(block) for block in steps) == FRAMES * gpu.STEPS
    assert {block.attributes[semconv.CLOCK.key] for block in steps} == {semconv.Clock.DEVICE}, (
        "a hook that failed would leave host times"
    )


def noted(frames: int = 3, work: Work | None = None) -> tuple[Timeline, StreamNotes]:
    """Our notes around kernels of our own (``work`` of each step), as the hooks make them."""
    timeline = Timeline(1, Anchor.take(), now())
    card = device.opened("cuda", torch.cuda.current_device())
    assert card is not None
    notes = StreamNotes(timeline.runs[0], card)
    notes.begin()
    numbers = torch.zeros(1 << 20, device="cuda")

    def add() -> None:
        for _ in range(50):
            numbers.add_(1)

    for _ in range(frames):
        at = now()
        timeline.runs[0].frames.append(at)
        notes.frame(at)
        notes.base(now())
        for _ in range(5):
            (work or add)()
            notes.append(now())
        notes.enter(Leaf.DECODE)
        started = now()
        numbers.mul_(2)
        timeline.runs[0].leave((Leaf.DECODE, started))
        notes.leave(Leaf.DECODE)
        notes.seen()
    return timeline, notes


def test_our_hooks_never_wait() -> None:
    """Marks, looks and the reading of both run where torch makes every synchronisation an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        timeline, notes = noted()
        notes.end()
        notes.placing.collect(final=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(notes.placing.placed.frames) == len(timeline.runs[0].frames)
    assert len(notes.placing.placed.steps) == len(timeline.runs[0].steps)


def test_the_hosts_view_bounds_what_is_placed() -> None:
    """The device passes nothing before the host put it in, and everything before the host saw that it had; the error
    says how far.
    """
    timeline, notes = noted()
    torch.cuda.synchronize()
    after = now()
    notes.end()
    notes.placing.collect(final=True)
    for entry, frame in notes.placing.placed.frames.items():
        assert entry <= frame.start
        assert frame.end <= after + frame.error * 1e9
        assert frame.error < 0.005
    assert len(notes.placing.placed.frames) == len(timeline.runs[0].frames)


def test_a_capture_survives_a_thread_that_reads() -> None:
    """A CUDA graph is captured, and replayed, while the recorder's thread polls without pause; what it computes is
    right.
    """
    from vibevoice_otel.adapters.shared.capture import hook_captures
    from vibevoice_otel.hooks.hooks import Hooks

    hooks = Hooks("gpu", lambda *_: None)
    hook_captures(hooks, torch.cuda.graphs)
    _, notes = noted()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    stop = threading.Event()
    asked: set[bool | None] = set()

    def poll() -> None:
        while not stop.is_set():
            with notes.device.reading() as allowed:
                asked.add(event.query() if allowed else None)

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        numbers = torch.zeros(16, device="cuda")
        for _ in range(20):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                notes.append(now())  # a step's hook inside the capture: it must leave the device alone
                numbers.add_(1)
            graph.replay()
    finally:
        stop.set()
        reader.join()
        hooks.undo()
    assert numbers.cpu().tolist() == [20.0] * 16
    assert True in asked
    assert None in asked, "no question fell into a capture: the test has shown nothing"


def test_a_replayed_graph_is_timed_as_a_whole() -> None:
    """A step that replays a graph takes as long as one that launches the same kernels."""
    cycles = gpu.cycles(1.0)

    def sleeps() -> None:
        for _ in range(3):
            torch.cuda._sleep(cycles)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sleeps()
    by_turns = itertools.cycle((sleeps, graph.replay))  # so that a clock that rises meanwhile falls on both alike

    def work() -> None:
        next(by_turns)()

    _, notes = noted(work=work)
    notes.end()
    notes.placing.collect(final=True)
    taken = [step.end - step.start for step in notes.placing.placed.steps.values()]
    assert len(taken) == 15
    assert float(np.median(taken[1::2])) == pytest.approx(float(np.median(taken[::2])), rel=0.05)


def test_memory_is_torchs_own(subject: Subject) -> None:
    """Allocated and reserved as torch.cuda tells them, and a limit that the card has."""
    del subject
    card = device.opened("cuda", 0)
    assert card is not None
    gc.collect()  # not between two questions
    memory = card.memory()
    assert memory.allocated == torch.cuda.memory_allocated(0) == card.allocated()
    assert memory.reserved == torch.cuda.memory_reserved(0)
    assert memory.limit is not None
    assert memory.allocated < memory.limit <= torch.cuda.mem_get_info(0)[1]
    assert memory.free is not None
    assert 0 <= memory.free < torch.cuda.mem_get_info(0)[1]
    assert memory.allocations is not None
    assert memory.frees is not None
    assert memory.allocations > memory.frees


def test_out_of_memory_is_told_on_the_span(subject: Subject) -> None:
    """A generation that asks for more than there is leaves the allocator's state on vibevoice.generate, and the next
    one speaks.
    """
    decode = subject.model.model.audio_tower.decode

    def greedy(*args: object, **kwargs: object) -> object:
        torch.empty(2 * torch.cuda.mem_get_info(0)[1], dtype=torch.uint8, device="cuda")
        return decode(*args, **kwargs)

    with gpu.observed() as kept:
        subject.model.model.audio_tower.decode = greedy
        try:
            subject.speak(2)
        except torch.cuda.OutOfMemoryError:
            pass
        finally:
            del subject.model.model.audio_tower.decode
        assert np.isfinite(subject.speak(2).numpy()).all()
    failed = [
        op
        for batch in kept.batches
        for op in batch.operations
        if op.span is semconv.GENERATE and op.error_type is not None
    ]
    assert [op.error_type for op in failed] == ["OutOfMemoryError"]
    assert failed[0].attributes[semconv.MEMORY_OOMS.key] >= 1  # type: ignore[operator]
    assert failed[0].attributes[semconv.MEMORY_LIMIT.key] > 0  # type: ignore[operator]


def test_a_sample_tells_the_kernels_share(subject: Subject) -> None:
    """One frame under torch's profiler: shares between nothing and all, what it cost, and every other frame as ever."""
    found, _ = card_benchmark.sampled(subject, 5)
    assert 0 < found["share_frame"] <= 1
    assert 0 < found["share_steps"] <= 1
    assert 0 < found["sample_cost"] < 30
    with gpu.observed() as kept:
        subject.speak(3)
    assert all("share_frame" not in block.measures for batch in kept.batches for block in batch.blocks)


def test_nvml_knows_torchs_card() -> None:
    """By its UUID; it draws some watts, and computes for one process at least."""
    pytest.importorskip("pynvml")
    torch.zeros(1, device="cuda")
    found = nvml.Cards()()
    if not found:
        pytest.skip("NVML tells nothing here (no library in this container)")
    _, labels, _ = found[0]
    own = str(torch.cuda.get_device_properties(0).uuid).removeprefix("GPU-")
    assert labels["hw.id"].removeprefix("GPU-").removeprefix("MIG-") == own
    assert {metric for metric, _, _ in found} & {semconv.HW_POWER, semconv.HW_ENERGY, semconv.GPU_PROCESSES}
