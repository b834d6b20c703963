"""Device times in the place of host times: what the assembler asks for each kind of record.

A frame is on the device's clock with all that is in it, or not at all: where a mark could not be made or read, the whole frame stays on
the host's. Records of the two clocks never share a block, so that they never share a series.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel import semconv
from vibevoice_otel.recording.device.placing import Interval, Placed, PlacedFrame, PlacedStep
from vibevoice_otel.recording.records import Column, Ints
from vibevoice_otel.recording.timeline import Leaf
from vibevoice_otel.semconv import Clock

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
NO_FRAMES: Mask = np.empty(0, bool)


@dataclass(slots=True)
class Timed:
    """Times of n records (monotonic nanoseconds) and which of them the device's clock gave; ``attributes`` of those that did."""

    starts: Ints
    ends: Ints
    device: Mask
    attributes: dict[str, Column]
    measures: dict[str, Floats]

    def parts(self) -> Iterator[tuple[Mask | slice, dict[str, Column], dict[str, Floats]]]:
        """The rows of each block to make: those of the device's clock, and those of the host's."""
        if not self.device.any():
            yield slice(None), {}, self.measures
            return
        shared = {key: value for key, value in self.attributes.items() if isinstance(value, str)}
        for rows, attributes in ((self.device, shared), (~self.device, {semconv.CLOCK.key: Clock.HOST})):
            if rows.any():
                columns = {k: v[rows] for k, v in self.attributes.items() if rows is self.device and isinstance(v, np.ndarray)}
                yield rows, {**attributes, **columns}, {name: values[rows] for name, values in self.measures.items()}


class OnDevice:
    """One batch's look at what has been placed; what it took is gone from there."""

    def __init__(self, placed: Placed | None) -> None:
        self._placed = placed if placed is not None else Placed()
        self._frames: Mask = NO_FRAMES
        self.last = 0  # the latest moment that any record got

    def frames(self, starts: Ints, ends: Ints) -> Timed:
        """Frames, each from the device's coming by its entry to its coming by the next one's."""
        found = [self._placed.frames.pop(start, None) for start in starts.tolist()]
        timed = self._timed(starts, ends, found)
        self._frames = timed.device
        if timed.device.any():
            error, idle = np.full(len(starts), np.nan), np.full(len(starts), np.nan)
            for row, frame in enumerate(found):
                if frame is not None:
                    error[row], idle[row] = frame.error, frame.idle
                    if frame.last:  # what follows the last mark is the host's alone
                        timed.ends[row] = max(frame.end, int(ends[row]))
            clock = np.where(timed.device, Clock.DEVICE, Clock.HOST)
            timed.attributes = {semconv.CLOCK.key: clock, semconv.CLOCK_ERROR.key: error, semconv.FRAME_IDLE_SHARE.key: idle}
        self._seen(timed)
        return timed

    def steps(self, starts: Ints, ends: Ints, frame: Ints) -> Timed:
        """Diffusion steps; ``frame`` is the place of each one's frame among those of :meth:`frames`."""
        names = ends.tolist()
        found = [self._placed.steps.pop(name, None) for name in names]
        allowed = self._frames[frame]
        timed = self._timed(starts, ends, [step if ok else None for step, ok in zip(found, allowed.tolist(), strict=True)])
        for name, dry in (("launch_latency", True), ("queue_latency", False)):
            values = [s.latency if s is not None and s.dry is dry else np.nan for s in found]
            if timed.device.any():
                timed.measures[name] = np.where(timed.device, values, np.nan)
        growth = np.array([self._placed.growth.pop(name, np.nan) for name in names], np.float64)
        if not np.isnan(growth).all():
            timed.measures["memory_increase"], timed.measures["memory_decrease"] = np.maximum(growth, 0), np.maximum(-growth, 0)
        self._seen(timed)
        return timed

    def leaf(self, leaf: Leaf, starts: Ints, ends: Ints, frame: Ints) -> Timed:
        """Intervals of one leaf; ``frame`` as for steps, -1 for those outside any frame."""
        names = [(leaf, start) for start in starts.tolist()]
        inside = frame >= 0
        allowed = ~inside if not len(self._frames) else ~inside | self._frames[np.maximum(frame, 0)]
        found = [self._placed.leaves.pop(name, None) for name in names]
        timed = self._timed(starts, ends, [each if ok else None for each, ok in zip(found, allowed.tolist(), strict=True)])
        errors = [self._placed.errors.pop(name, np.nan) for name in names]
        if leaf is Leaf.PREFILL and not np.isnan(errors).all():
            timed.attributes[semconv.CLOCK_ERROR.key] = np.array(errors)
        self._seen(timed)
        return timed

    def _seen(self, timed: Timed) -> None:
        if timed.device.any():
            self.last = max(self.last, int(timed.ends[timed.device].max()))

    @staticmethod
    def _timed(starts: Ints, ends: Ints, found: list[PlacedFrame | None] | list[PlacedStep | None] | list[Interval | None]) -> Timed:
        device = np.array([each is not None for each in found], bool)
        timed = Timed(starts, ends, device, {}, {})
        if device.any():
            timed.starts, timed.ends = starts.copy(), ends.copy()
            for row, each in enumerate(found):
                if each is not None:
                    timed.starts[row], timed.ends[row] = each.start, each.end
            timed.attributes = {semconv.CLOCK.key: Clock.DEVICE, semconv.HOST_DURATION.key: (ends - starts) / 1e9}
        return timed
