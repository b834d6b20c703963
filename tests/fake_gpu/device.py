"""A GPU for tests, on the interface that vibevoice_otel.recording.device has for real ones.

It keeps the true host time at which each event was passed, and answers as CUDA would: late by launches, ahead or behind
by its own clock's drift, in multiples of its resolution, rounded to float32 milliseconds. Whatever would synchronise
raises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vibevoice_otel.recording.device.interface import Generations, Kernels, Memory, Pool

US = 1_000
MS = 1_000_000


class Synchronised(AssertionError):
    """Somebody other than the model made the host wait for the device."""


class HostClock:
    """Stands still until moved; reading it costs ``tick`` ns. ``ran`` is what the thread that generates was on
    a core.
    """

    def __init__(self, tick: int = 50) -> None:
        self.at = 1_000_000_000
        self.tick = tick
        self.ran = 0

    def __call__(self) -> int:
        self.at += self.tick
        self.ran += self.tick
        return self.at

    def cpu(self) -> int:
        return self.ran

    def pass_(self, nanoseconds: float) -> None:
        self.at += round(nanoseconds)
        self.ran += round(nanoseconds)

    def off(self, nanoseconds: float) -> None:
        """The thread is off its core: it waits for a lock, or sleeps."""
        self.at += round(nanoseconds)

    def sleep(self, seconds: float) -> None:
        self.off(seconds * 1e9)


@dataclass
class FakeEvent:
    """``truth`` is the host time (ns) at which the device passed the event, None before it was recorded."""

    gpu: FakeGpu
    truth: float | None = None

    def record(self, stream: FakeStream) -> None:
        self.gpu.fail_if_lost()
        self.gpu.recorded += 1
        self.truth = stream.put(0.0)

    def query(self) -> bool:
        self.gpu.fail_if_lost()
        assert not self.gpu.capturing, "cudaEventQuery voids a capture"
        return self.truth is not None and self.gpu.host() >= self.truth

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.query(), "cudaErrorNotReady"
        assert end.query(), "cudaErrorNotReady"
        assert self.truth is not None
        assert end.truth is not None
        ticks = self.gpu.ticks(end.truth) - self.gpu.ticks(self.truth)
        return float(np.float32(ticks * self.gpu.tick / MS))

    def synchronize(self) -> None:
        raise Synchronised("event.synchronize()")


@dataclass
class FakeStream:
    """Work in order. ``until`` is when (true host ns) what is in it will be done."""

    gpu: FakeGpu
    until: float = 0.0

    def put(self, duration: float) -> float:
        """Queue work of ``duration`` ns from the host's present; returns when it will be done."""
        begins = max(self.until, self.gpu.host.at + self.gpu.launch_delay())
        self.until = self.gpu.shared(self.until, begins, duration)
        return self.until

    def query(self) -> bool:
        self.gpu.fail_if_lost()
        assert not self.gpu.capturing, "cudaStreamQuery voids a capture"
        return self.gpu.host.at >= self.until

    def synchronize(self) -> None:
        raise Synchronised("stream.synchronize()")


@dataclass
class FakeProfiler:
    """Sees the kernels that the model launches while it runs. To start and to stop it takes a while, and to stop waits
    for the card.
    """

    gpu: FakeGpu
    cost: float = 4 * MS
    seen: list[tuple[int, int]] | None = None

    def start(self) -> None:
        assert self.gpu.profiling is None, "one subscriber at a time"
        self.gpu.host.pass_(self.cost)
        self.seen = self.gpu.profiling = []

    def stop(self) -> Callable[[], Kernels]:
        self.gpu.profiling = None
        self.gpu.wait()
        self.gpu.host.pass_(self.cost)
        assert self.seen is not None
        return self.seen.copy


@dataclass
class FakeGpu:
    """One card. Everything about it can be set."""

    host: Any = field(default_factory=HostClock)
    launch: Callable[[], float] | float = 5.0 * US
    drift: float = 5e-5  # stated
    skew: float = 0.0  # true: its clock runs faster by this
    resolution: int = 500  # stated, and kept
    tick: int = 500
    id: str = "0"
    uuid: str | None = None
    timed: bool = True
    lost: bool = False
    capturing: bool = False
    recorded: int = 0
    counters: Memory = field(default_factory=lambda: Memory(0, 0, 0, 80 << 30, 80 << 30, 0, 0, 0, 0))
    pool_limit: int = 65_536
    wake_up: float = 0.0  # longer than 10 us, from the card's being done until the thread that waited for it goes on
    spins: bool = True  # a thread that waits for the card keeps its core, as CUDA has it unless told otherwise
    #: For how long, ns, the card serves this process and then another one, where both want it; asked at each turn.
    slices: Callable[[], tuple[float, float]] | None = None
    profiling: list[tuple[int, int]] | None = None
    profiled: bool = False  # another tool uses the profiler

    def __post_init__(self) -> None:
        self.main = FakeStream(self)
        self._slice_end = 0.0
        self.pool = Pool(lambda: FakeEvent(self), self.pool_limit)
        self.generations = Generations()

    # --------------------------------------------------------------------------------------- what the telemetry may ask

    def hardware(self) -> tuple[str | None, str | None]:
        return self.uuid, None

    def stream(self) -> FakeStream:
        return self.main

    def paused(self) -> bool:
        return self.capturing

    @contextlib.contextmanager
    def reading(self) -> Iterator[bool]:
        yield not self.capturing

    def profiler(self) -> FakeProfiler | None:
        return None if self.profiled or self.profiling is not None or self.capturing else FakeProfiler(self)

    def allocated(self) -> int:
        return self.counters.allocated

    def peak(self) -> int | None:
        return self.counters.peak

    def memory(self) -> Memory:
        return self.counters

    def synchronize(self) -> None:
        raise Synchronised("torch.cuda.synchronize()")

    # ---------------------------------------------------------------------------------------------- what the model does

    def kernel(self, nanoseconds: float, host_cost: float = 3 * US) -> tuple[float, float]:
        """Launch a kernel; the true (start, end) of its run."""
        self.host.pass_(host_cost)
        end = self.main.put(nanoseconds)
        if self.profiling is not None:
            self.profiling.append((round(end - nanoseconds), round(end)))
        return end - nanoseconds, end

    def wait(self) -> None:
        """The model itself waits for the stream, as ``.cpu()`` does. The thread is awake at once after a wait of some
        microseconds, and takes ``wake_up`` after a longer one.
        """
        waited = max(0, round(self.main.until) - self.host.at)
        (self.host.pass_ if self.spins else self.host.off)(waited)
        self.host.pass_(10 * US)
        if waited > 50 * US:
            (self.host.pass_ if self.spins else self.host.off)(self.wake_up)

    # ----------------------------------------------------------------------------------------------------------- inside

    def launch_delay(self) -> float:
        return self.launch() if callable(self.launch) else self.launch

    def shared(self, idle_since: float, begins: float, duration: float) -> float:
        """When work that this process could begin at ``begins`` is done, the other process's turns left out.

        That one takes the card as soon as this one leaves it, and keeps it for whole slices.
        """
        if self.slices is None:
            return begins + duration
        if begins > idle_since:
            theirs = idle_since
            while theirs < begins:
                own, foreign = self.slices()
                theirs += foreign
            begins, self._slice_end = theirs, theirs + own
        while duration > self._slice_end - begins:
            own, foreign = self.slices()
            duration -= self._slice_end - begins
            begins = self._slice_end + foreign
            self._slice_end = begins + own
        return begins + duration

    def ticks(self, truth: float) -> int:
        return int(truth * (1 + self.skew) // self.tick)

    def fail_if_lost(self) -> None:
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
