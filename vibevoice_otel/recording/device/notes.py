"""The hot path on a device: marks in the model's stream, written down beside the host's times. It never waits and never
reads.

A step costs two clock reads, one stream query and one event from the pool. What the marks mean is found out later, on
the recorder's thread (placing.py).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from vibevoice_otel import semconv
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.device.interface import Device, Event, Memory, Stream
from vibevoice_otel.recording.device.limits import Turn
from vibevoice_otel.recording.device.marks import BASE, FRAME, SEEN, STEP, Mark, entered, left
from vibevoice_otel.recording.device.placing import Placing
from vibevoice_otel.recording.device.profile import Sample
from vibevoice_otel.recording.interval import Leaf

if TYPE_CHECKING:
    from vibevoice_otel.recording.records import AttributeValue
    from vibevoice_otel.recording.timeline import Run

_new = tuple.__new__
#: Memory is looked at around the steps of the first frame and of each so-many-th: the look costs about as much as three
#: marks.
MEMORY_EVERY = 8


class StreamNotes:
    """Notes of one run on one device. Its columns are appended to by the thread that generates, emptied by the
    recorder's.
    """

    def __init__(
        self,
        run: Run,
        device: Device,
        clock: Callable[[], int] = now,
        cpu_clock: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self.device = device
        self.marks: list[Mark] = []
        self.placing = Placing(device, self.marks, clock)
        self.memory: Memory | None = None  # of the moment when it ran out
        #: The most that was allocated while this request generated: torch's high-water mark where it rose meanwhile,
        #: else the largest look.
        self.request_peak: int | None = None
        self._run = run
        self._steps = run.steps.append
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._stream: Stream | None = None
        self._last: Event | None = None  # the youngest event
        self._frames = 0
        self._looking = False
        self._blind = False  # the allocator tells nothing
        self._before: tuple[int, int] | None = None  # allocated bytes and the changes of company when a step began
        self._high = 0
        self._start: int | None = None  # torch's high-water mark when the generation began
        self._lost = not device.timed
        self.sample: Sample | None = None  # a frame of this run is to be profiled

    # -------------------------------------------------------------------------------------------- the generation's life

    def begin(self) -> None:
        """The generation begins."""
        self.device.generations.begin(self._run.request)
        with contextlib.suppress(Exception):
            self._high = self.device.allocated()
            self._start = self.device.peak()

    def end(self, *, failed: bool = False) -> None:
        """The generation has ended. ``failed`` keeps the allocator's state of this moment: memory ran out."""
        if self.sample is not None:
            self.sample.stop()
        self._turn(self._clock())
        with contextlib.suppress(Exception):
            self.memory = self.device.memory() if failed else None
            peak = self.device.peak()
            risen = peak is not None and self._start is not None and peak > self._start
            self.request_peak = peak if risen else max(self._high, self.device.allocated())
        self.device.generations.end(self._run.request)

    @property
    def summary(self) -> dict[str, AttributeValue]:
        """Attributes of vibevoice.generate: the device, the request's peak, and the allocator's state if memory ran
        out.
        """
        values: dict[semconv.Attribute, int | str | None] = {
            semconv.DEVICE_ID: self.device.id,
            semconv.REQUEST_MEMORY_PEAK: self.request_peak,
        }
        memory = self.memory
        if memory is not None:
            values |= {
                semconv.MEMORY_ALLOCATED: memory.allocated, semconv.MEMORY_RESERVED: memory.reserved,
                semconv.MEMORY_FRAGMENTED: memory.reserved - memory.allocated, semconv.MEMORY_FREE: memory.free,
                semconv.MEMORY_LIMIT: memory.limit, semconv.MEMORY_RETRIES: memory.retries,
                semconv.MEMORY_OOMS: memory.ooms,
            }  # fmt: skip
        return {attribute.key: value for attribute, value in values.items() if value is not None}

    # ------------------------------------------------------------------------------------------------------- each frame

    def frame(self, host_time: int) -> None:
        """A frame's sampling is entered at ``host_time`` (as in the run's ``frames``)."""
        if self.sample is not None:
            self.sample.frame(host_time)
        self.seen()
        self._stream = None
        self._put(FRAME, host_time)
        self._turn(host_time)
        self._looking = self._frames % MEMORY_EVERY == 0 and not self._blind
        self._frames += 1

    def _turn(self, host_time: int) -> None:
        """Once a frame: how long this thread has run so far, which tells a busy core from a lock that was
        waited for.
        """
        self.placing.turns.append(Turn(host_time, self._cpu_clock(), self.device.generations.running))

    def base(self, host_time: int) -> None:
        """The first step of a frame begins."""
        if self._looking:
            self._look()
        self._put(BASE, host_time)

    def append(self, host_time: int) -> None:
        """A diffusion step returned."""
        self._steps(host_time)
        self._put(STEP, host_time, self._grown() if self._looking else None)

    def enter(self, leaf: Leaf) -> None:
        if leaf is Leaf.PREFILL:
            self._stream = None
        self._put(entered(leaf), 0)

    def leave(self, leaf: Leaf) -> None:
        """Called after the timeline has noted the leaf, whose start names it."""
        column = self._run.leaves[leaf]
        self._put(left(leaf), column[-2] if len(column) > 1 else 0)

    def seen(self) -> None:
        """The model may just have waited for the device: if it has, the youngest event is passed, and no later than
        now.
        """
        event = self._last
        try:
            if event is not None and not self.device.paused() and event.query():
                self._last = None
                self.marks.append(Mark(SEEN, 0, self._clock(), None, dry=True))
        except Exception:  # noqa: BLE001 - as in _put
            self._lost = True

    # ------------------------------------------------------------------------------------------------------------ marks

    def _put(self, kind: int, key: int, growth: int | None = None) -> None:
        device = self.device
        try:
            event = None if self._lost or device.paused() else device.pool.take()
            if event is not None:
                stream = self._stream
                if stream is None:
                    stream = self._stream = device.stream()
                dry = stream.query()
                host = self._clock()
                event.record(stream)
                self._last = event
                self.marks.append(
                    _new(Mark, (kind, key, host, event, dry, growth))
                )  # a third of what calling Mark would cost
                return
        except Exception:  # noqa: BLE001 - a device that fails (its errors stick) is asked no more; what follows is timed by the host
            self._lost = True
        self._last = self._stream = None
        self.marks.append(Mark(kind, key, 0, None, dry=False, growth=growth))

    def _look(self) -> None:
        try:
            held = self.device.allocated()
        except Exception:  # noqa: BLE001 - an allocator that keeps no counters (torch allows one of the user's own): times go on without
            self._looking, self._blind, self._before = False, True, None
            return
        self._high = max(self._high, held)
        self._before = (held, self.device.generations.changes)

    def _grown(self) -> int | None:
        before = self._before
        self._look()
        company = self.device.generations
        if before is None or self._before is None or not company.alone or before[1] != company.changes:
            return None
        return self._before[0] - before[0]
