"""A sample of the truth: one frame under the accelerator's profiler, which alone says for how long kernels were at
work.

It costs what no mark costs: the profiler waits for the device when it stops (the one exception to what the model's
thread may do), serves the whole process, admits one user, and its records are read under the interpreter's lock. So it
is off unless the operator asks for it, is taken while no other request is open and the listener has audio in hand, and
what it cost stands beside what it found.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vibevoice_otel.recording.clock import now
from vibevoice_otel.semconv import SharePart

if TYPE_CHECKING:
    from vibevoice_otel.recording.device.interface import Device, Kernels, Profiler
    from vibevoice_otel.recording.device.placing import Interval
    from vibevoice_otel.recording.timeline import Timeline

logger = logging.getLogger(__name__)
#: Frames of a request before one is sampled: kernels are loaded, caches allocated.
WARM_FRAMES = 2
#: Seconds of audio that the listener must have in hand: a profiler that starts for the first time may take as long.
SLACK_SECONDS = 1.0
FRAME_SECONDS = 3200 / 24_000
#: Between two samples on demand, seconds: any client may ask for one.
LEAST_INTERVAL = 10.0


@dataclass(frozen=True, slots=True)
class Taken:
    """A sampled frame as the model's thread leaves it. Times are monotonic ns, costs seconds."""

    began: int  # the profiler had started
    ended: int  # it was about to stop
    to_wall: int  # what turns these times into nanoseconds since 1970
    start_cost: float
    stop_cost: float
    read: Callable[[], Kernels]  # the kernels, for the recorder's thread

    def shares(self, parts: Mapping[str, Sequence[Interval]]) -> Shares:
        """Kernels' share of the frame and of each of its ``parts``."""
        began = now()
        kernels = np.array(self.read(), np.int64).reshape(-1, 2) - self.to_wall
        seconds = (now() - began) / 1e9
        found = {}
        if len(kernels):
            busy, whole = _Busy(kernels), {SharePart.FRAME.value: [(self.began, self.ended)], **parts}
            found = {name: busy.share(intervals) for name, intervals in whole.items() if len(intervals)}
        else:
            logger.warning("the GPU profiler saw no kernel: has this process access to CUPTI? The sample is dropped")
        return Shares(found, self.start_cost, self.stop_cost, seconds)


@dataclass(frozen=True, slots=True)
class Shares:
    """Kernels' share by :class:`semconv.SharePart`, and what it took to learn it, in seconds."""

    by_part: Mapping[str, float]
    start_cost: float
    stop_cost: float
    read_cost: float


class _Busy:
    """For how long any kernel ran up to a moment. ``kernels``: start and end of each, shape (n, 2)."""

    def __init__(self, kernels: np.ndarray) -> None:
        ordered = kernels[np.argsort(kernels[:, 0], kind="stable")]
        reached = np.maximum.accumulate(ordered[:, 1])
        before = np.concatenate((ordered[:1, 0], reached[:-1]))
        starts = np.maximum(ordered[:, 0], before)  # what an earlier kernel covers counts once
        self._at = np.stack((starts, np.maximum(reached, starts)), axis=1).ravel().astype(np.float64)
        self._sum = np.stack((np.zeros(len(starts)), np.maximum(reached - starts, 0)), axis=1).ravel().cumsum()

    def share(self, intervals: Sequence[tuple[int, int]]) -> float:
        total = sum(end - start for start, end in intervals)
        busy = sum(float(np.diff(np.interp((start, end), self._at, self._sum))[0]) for start, end in intervals)
        return min(1.0, busy / total) if total > 0 else 0.0


class Sample:
    """The sampling of one generation: at most one frame of it. Called by the thread that generates.

    Args:
        device: whose profiler is used.
        may: whether this is a moment for it; asked at each frame until it says yes.
        placed: where the taken sample is left for the recorder's thread, by the frame's entry.
    """

    def __init__(
        self,
        device: Device,
        may: Callable[[], bool],
        placed: dict[int, Taken | None],
        clock: Callable[[], int] = now,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._clock, self._wall = clock, wall
        self._device = device
        self._may = may
        self._placed = placed
        self._profiler: Profiler | None = None
        self._frames = 0
        self._before = self._key = 0  # entries of the frame before the sampled one, and of that one
        self._began = self._to_wall = self._thread = 0
        self._start_cost = 0.0
        self._done = False

    def frame(self, host_time: int) -> None:
        """A frame is entered at ``host_time``."""
        if self._profiler is not None:
            self.stop()
        elif not self._done and self._frames >= WARM_FRAMES and self._may():
            self._start(host_time)
        self._before = host_time
        self._frames += 1

    def _start(self, host_time: int) -> None:
        self._done = True
        began = self._clock()
        try:
            profiler = self._device.profiler()
            if profiler is None:
                logger.info("no GPU sample: another profiler, or the capture of a graph, is active")
                return
            profiler.start()
        except Exception:
            logger.warning("the GPU profiler did not start; there are no samples", exc_info=True)
            return
        self._placed[self._before] = None  # to start took from the frame before
        self._key, self._thread = host_time, threading.get_ident()
        self._began, self._to_wall = self._clock(), self._wall() - self._clock()
        self._start_cost = (self._began - began) / 1e9
        self._profiler = profiler

    def stop(self) -> None:
        """The sampled frame, or the generation, is over."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        if threading.get_ident() != self._thread:
            logger.warning(
                "a GPU sample began on another thread than it ended on; the profiler cannot be stopped from here"
            )
            return
        ended = self._clock()
        try:
            read = profiler.stop()
        except Exception:
            logger.warning("the GPU profiler did not stop as it should; the sample is dropped", exc_info=True)
            self._placed[self._key] = None
            return
        self._placed[self._key] = Taken(
            self._began, ended, self._to_wall, self._start_cost, (self._clock() - ended) / 1e9, read
        )


class Sampler:
    """When a frame is sampled: on demand, and where ``interval`` is given once in so many seconds.

    Args:
        interval: seconds; None for on demand alone.
        requests: how many requests are open now.
    """

    def __init__(
        self, interval: float | None, requests: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = interval
        self._requests = requests
        self._clock = clock
        self._last = float("-inf")

    def of(self, timeline: Timeline, device: Device, placed: dict[int, Taken | None]) -> Sample | None:
        """The sampling of a generation that begins for ``timeline``; None where none of its frames is to be sampled."""
        age = self._clock() - self._last
        on_demand = timeline.asked.sample and age >= LEAST_INTERVAL
        if not on_demand and (self._interval is None or age < self._interval):
            return None

        def may() -> bool:
            if self._requests() > 1 or not (on_demand or _slack(timeline) >= SLACK_SECONDS):
                return False
            self._last = self._clock()
            timeline.profiled = True
            return True

        return Sample(device, may, placed)


def _slack(timeline: Timeline) -> float:
    """Seconds of audio that the listener has in hand, playing since the first of it was sent."""
    if timeline.first_send is None:
        return 0.0
    return timeline.delivered * FRAME_SECONDS - (now() - timeline.first_send) / 1e9
