"""A generation on the fake GPU: the model's calls in their order, our notes among them, and what truly happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.fake_gpu.device import MS, US, FakeGpu
from tests.support.builders import assembly
from vibevoice_otel import semconv
from vibevoice_otel.recording.clock import Anchor
from vibevoice_otel.recording.device.notes import StreamNotes
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.records import Batch, Block
from vibevoice_otel.recording.timeline import Asked, Timeline


@dataclass
class Run:
    """``truth``: per kind, the (start, end) in true host ns of what the device did,
    as our marks are meant to bound it.
    """

    gpu: FakeGpu
    syncs: bool = True  # the model waits for each frame's audio
    step_ns: float = 2 * MS
    pass_ns: float = 1 * MS  # a pass of the language model
    kernels: int = 3  # in a step
    host_ns: float = 30 * US  # that a kernel's launch costs the host
    waits_in_steps: bool = False  # each step's timestep is copied from pageable memory, which waits
    #: What another thread of this process does with the interpreter's lock after each of our launches: (ns for which it
    #: keeps the lock, ns of work that it puts on the card).
    rival: Callable[[], tuple[float, float]] | None = None
    timeline: Timeline = field(init=False)
    notes: StreamNotes = field(init=False)
    steps: list[tuple[float, float]] = field(default_factory=list)
    decodes: list[tuple[float, float]] = field(default_factory=list)
    prefills: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        host = self.gpu.host
        self.timeline = t = Timeline(
            1, Anchor(wall=0, monotonic=0), host(), Asked(voice="en-Carter_man", text_length=5)
        )
        t.used.voice, t.used.cfg, t.used.steps = "en-Carter_man", 1.5, 5
        self.notes = StreamNotes(t.runs[0], self.gpu, host, host.cpu)
        self.notes.placing._sleep = host.sleep  # time passes while the recorder waits
        t.runs[0].device = self.notes
        t.runs[0].start = host()
        self.notes.begin()

    def leaf(self, leaf: Leaf, nanoseconds: float) -> tuple[float, float]:
        """One call as timeline.timed wraps it; the true times of the two marks."""
        self.notes.enter(leaf)
        begins = self._marked()
        started = self.gpu.host()
        for _ in range(self.kernels):
            self._launch(nanoseconds / self.kernels)
        self.timeline.runs[0].leaves[leaf].extend((started, self.gpu.host()))
        self.notes.leave(leaf)
        return begins, self._marked()

    def frame(self, steps: int = 5) -> None:
        t, host = self.timeline, self.gpu.host
        at = host()
        t.runs[0].frames.append(at)
        self.notes.frame(at)
        self.gpu.kernel(20 * US, self.host_ns)
        host.pass_(150 * US)  # set_timesteps is the host's alone
        at = host()
        t.runs[0].bases.append(at)
        self.notes.base(at)
        before = self._marked()
        for _ in range(steps):
            if self.waits_in_steps:
                self.gpu.wait()
            for _ in range(self.kernels):
                self._launch(self.step_ns / self.kernels)
            self.notes.append(host())
            self.steps.append((before, self._marked()))
            before = self._marked()
        self.decodes.append(self.leaf(Leaf.DECODE, 3 * MS))
        if self.syncs:
            self.gpu.wait()
            self.notes.seen()
        self.leaf(Leaf.LM_POSITIVE, self.pass_ns)
        self.leaf(Leaf.LM_NEGATIVE, self.pass_ns)

    def end(self, *, failed: bool = False) -> None:
        self.timeline.runs[0].end = self.gpu.host()
        self.notes.end(failed=failed)

    def finish(self) -> Batch:
        assert self.timeline.generate_end is not None
        self.timeline.work_end = self.timeline.generate_end
        return assembly(self.timeline).finish(end=self.timeline.generate_end + 1 * MS)

    def _launch(self, nanoseconds: float) -> None:
        self.gpu.kernel(nanoseconds, self.host_ns)
        if self.rival is not None:
            keeps, work = self.rival()
            self.gpu.main.put(work)
            self.gpu.host.off(keeps)

    def _marked(self) -> float:
        event = self.notes._last
        return float("nan") if event is None else event.truth  # type: ignore[attr-defined]


def blocks(batch: Batch, span: semconv.Span, clock: str) -> list[Block]:
    return [b for b in batch.blocks if b.span is span and str(b.attributes.get(semconv.CLOCK.key)) == clock]


def errors(block: Block, truth: list[tuple[float, float]]) -> np.ndarray:
    """How far each start and end is from the truth, ns."""
    return np.abs(np.stack((block.start, block.end), axis=1) - np.array(truth))
