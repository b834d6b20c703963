"""On a real card: our intervals beside the profiler's, not one synchronisation more, and the same sound."""

from __future__ import annotations

import threading

import numpy as np
import torch

from benchmarks import gpu
from benchmarks.gpu import Subject
from vibevoice_otel import semconv
from vibevoice_otel.recording import device
from vibevoice_otel.recording.clock import Anchor, now
from vibevoice_otel.recording.device import StreamNotes
from vibevoice_otel.recording.timeline import Leaf, Timeline

FRAMES = 12


def test_a_steps_interval_is_its_kernels(subject: Subject) -> None:
    """From the first kernel's start to the last one's end, gaps included: within 2 % in the median, or 10 us for short steps."""
    with gpu.observed() as kept:
        subject.speak(2)
        trace = gpu.recorded_run(subject, FRAMES, kept)
    result = gpu.compare(kept.steps(), trace)
    assert len(result.ours) == FRAMES * gpu.STEPS
    assert result.off <= result.allowed


def test_not_one_synchronisation_is_added(subject: Subject) -> None:
    """The same seeded run with and without us: stream, event and device synchronisations and synchronous copies, by the profiler."""
    without = gpu.waits(gpu.profiled(subject, FRAMES))
    with gpu.observed() as kept:
        subject.speak(2)
        with_us = gpu.waits(gpu.recorded_run(subject, FRAMES, kept))
    assert without == with_us
    assert sum(without.values()) > 0, "the model waits for its own audio; a profiler that saw none of it saw nothing"


def test_the_sound_is_the_same(subject: Subject) -> None:
    """The same seed gives the same samples, observed or not."""
    bare = subject.speak(FRAMES, seed=3)
    with gpu.observed():
        assert torch.equal(subject.speak(FRAMES, seed=3), bare)


def noted(frames: int = 3) -> tuple[Timeline, StreamNotes]:
    """Our notes around kernels of our own, as the hooks make them."""
    timeline = Timeline(1, Anchor.take(), now())
    card = device.opened("cuda", torch.cuda.current_device())
    assert card is not None
    notes = StreamNotes(timeline, card)
    notes.begin()
    work = torch.zeros(1 << 20, device="cuda")
    for _ in range(frames):
        at = now()
        timeline.frames.append(at)
        notes.frame(at)
        notes.base(now())
        for _ in range(5):
            for _ in range(50):
                work.add_(1)
            notes.append(now())
        notes.enter(Leaf.DECODE)
        started = now()
        work.mul_(2)
        timeline.leave(Leaf.DECODE, started)
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
    assert len(notes.placing.placed.frames) == len(timeline.frames)
    assert len(notes.placing.placed.steps) == len(timeline.steps)


def test_the_hosts_view_bounds_what_is_placed() -> None:
    """The device passes nothing before the host put it in, and everything before the host saw that it had; the error says how far."""
    timeline, notes = noted()
    torch.cuda.synchronize()
    after = now()
    notes.end()
    notes.placing.collect(final=True)
    for entry, frame in notes.placing.placed.frames.items():
        assert entry <= frame.start
        assert frame.end <= after + frame.error * 1e9
        assert frame.error < 0.001
    assert timeline.frames


def test_a_capture_survives_a_thread_that_reads() -> None:
    """A CUDA graph is captured, and replayed, while the recorder's thread polls without pause; what it computes is right."""
    from vibevoice_otel.adapters.capture import hook_captures
    from vibevoice_otel.adapters.hooks import Hooks

    hooks = Hooks("gpu", lambda *_: None)
    hook_captures(hooks, torch.cuda.graphs)
    _, notes = noted()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    stop = threading.Event()
    asked = []

    def poll() -> None:
        while not stop.is_set():
            with notes.device.reading() as allowed:
                asked.append(event.query() if allowed else None)

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


def test_memory_is_torchs_own(subject: Subject) -> None:
    """Allocated and reserved as torch.cuda tells them, and a limit that the card has."""
    del subject
    card = device.opened("cuda", 0)
    assert card is not None
    memory = card.memory()
    assert memory.allocated == torch.cuda.memory_allocated(0) == card.allocated()
    assert memory.reserved == torch.cuda.memory_reserved(0)
    assert memory.limit is not None
    assert memory.allocated < memory.limit <= torch.cuda.get_device_properties(0).total_memory


def test_out_of_memory_is_told_on_the_span(subject: Subject) -> None:
    """A generation that asks for more than there is leaves the allocator's state on vibevoice.generate, and the next one speaks."""
    decode = subject.model.model.audio_tower.decode

    def greedy(*args: object, **kwargs: object) -> object:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
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
    failed = [op for batch in kept.batches for op in batch.operations if op.span is semconv.GENERATE and op.error_type is not None]
    assert [op.error_type for op in failed] == ["OutOfMemoryError"]
    assert failed[0].attributes[semconv.MEMORY_OOMS.key] >= 1  # type: ignore[operator]
    assert failed[0].attributes[semconv.MEMORY_LIMIT.key] > 0  # type: ignore[operator]
