"""What a device clock needs of an accelerator, and nothing that would wait for it.

The interface has no call that synchronises: what is not here cannot be called by mistake. cuda.py is the implementation
on torch; tests bring one whose truth they know.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol


class Event(Protocol):
    """A mark in a stream (``torch.cuda.Event(enable_timing=True)``)."""

    def record(self, stream: Any) -> None:
        """Have the device note its time when all that was put in ``stream`` so far is done."""

    def query(self) -> bool:
        """Whether the device has passed the mark; returns at once."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds, as a float32 has them, from this mark to ``end_event``; both must have been passed."""


#: Start and end of each kernel, nanoseconds since 1970.
Kernels = list[tuple[int, int]]


class Profiler(Protocol):
    """Sees every kernel that this process runs between start and stop."""

    def start(self) -> None: ...

    def stop(self) -> Callable[[], Kernels]:
        """Wait for the device, and for its records. What is returned reads them; any thread may call it."""


class Stream(Protocol):
    """A queue of work for the device."""

    def query(self) -> bool:
        """Whether all work in the stream is done; returns at once."""


@dataclass(frozen=True, slots=True)
class Memory:
    """An allocator's own counters; None where the device does not tell. Bytes,
    and numbers of events since the start.
    """

    allocated: int
    reserved: int
    peak: int | None = None
    limit: int | None = None  # the lesser of the allocator's cap and the card's total
    free: int | None = None  # on the card, other processes seen
    allocations: int | None = None
    frees: int | None = None
    retries: int | None = None  # the cache was given back to the driver to make room: a near miss
    ooms: int | None = None

    def known(self) -> dict[str, int]:
        """The counters that the device tells."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Device(Protocol):
    """One accelerator of this process. The values here are those of a device that tells its memory and no times."""

    id: str
    timed: bool = False  # it has events; without, times stay the host's
    resolution: int = 0  # ns within which an event's time is true
    drift: float = 0.0  # by how much its clock may run faster or slower than the host's (1e-5 is 10 us a second)
    pool: Pool
    generations: Generations

    def hardware(self) -> tuple[str | None, str | None]:
        """(UUID, PCI bus id) of the card, by which its driver knows it; None for what is not known."""
        return None, None

    def stream(self) -> Stream:
        """The stream in which the calling thread works now."""

    def paused(self) -> bool:
        """Whether nothing may be recorded or read now: a graph is being captured.
        Asked by the thread that generates.
        """
        return True

    def reading(self) -> Any:
        """A context manager within which the recorder's thread may query; its value is False while a graph is being
        captured.
        """
        return contextlib.nullcontext(False)

    def profiler(self) -> Profiler | None:
        """The one profiler; None while another uses it, a graph is being captured, or the device has none."""
        return None

    def allocated(self) -> int:
        """Bytes that the allocator has handed out; cheap enough to ask between two steps."""

    def peak(self) -> int | None:
        """The most that it ever had handed out."""
        return None

    def memory(self) -> Memory:
        """All counters, the driver's among them: for the collection thread, and for what ran out of memory."""


class Pool:
    """Events for re-use: creating one costs more than recording it. ``take`` and ``give`` are for any thread and take
    no lock.

    Args:
        make: creates an event.
        limit: events that may be on loan; past it :meth:`take` has none, and the frame is timed by the host.
    """

    def __init__(self, make: Callable[[], Event], limit: int = 65_536) -> None:
        self._make = make
        self._free: deque[Event] = deque()
        self._limit = limit
        self._made = 0

    def take(self) -> Event | None:
        try:
            return self._free.pop()
        except IndexError:
            if self._made >= self._limit:
                return None
            self._made += 1
            return self._make()

    def give(self, events: Iterable[Event]) -> None:
        """Take back events that the device has passed."""
        self._free.extend(events)

    def lose(self, count: int) -> None:
        """``count`` events were dropped unread; they are not on loan any more."""
        self._made -= count


class Generations:
    """Which requests generate on a device: its memory counters are the process's, so a change belongs to a request only
    while it is alone.
    """

    def __init__(self) -> None:
        self._running: set[int] = set()
        self.changes = 0  # beginnings and ends so far

    def begin(self, request: int) -> None:
        self.changes += 1
        self._running.add(request)

    def end(self, request: int) -> None:
        self.changes += 1
        self._running.discard(request)

    @property
    def running(self) -> int:
        """Requests that generate now."""
        return len(self._running)

    @property
    def alone(self) -> bool:
        return self.running == 1
