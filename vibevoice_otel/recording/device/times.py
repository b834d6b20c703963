"""Device times in the place of host times: what the assembler asks for each kind of record.

A frame is on the device's clock with all that is in it, or not at all: where a mark could not be made or read, the
whole frame stays on the host's. Records of the two clocks never share a block, so that they never share a series.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel import semconv
from vibevoice_otel.recording.device.limits import FrameLimits
from vibevoice_otel.recording.device.placing import Interval, Placed, PlacedFrame, PlacedStep
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.records import Column, Ints
from vibevoice_otel.semconv import Clock

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
NONE: Mask = np.empty(0, bool)


@dataclass(slots=True)
class Timed:
    """Times of n records (monotonic nanoseconds) and which of them the device's clock gave; ``attributes`` of those
    that did.

    ``device`` is empty where no device times anything.
    """

    starts: Ints
    ends: Ints
    device: Mask
    attributes: dict[str, Column] = field(default_factory=dict)
    measures: dict[str, Floats] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        return bool(len(self.device)) and bool(self.device.any())

    def rows(self, rows: slice) -> Timed:
        """Those of ``rows``."""
        starts, ends = self.starts[rows], self.ends[rows]
        if not len(self.device):
            return Timed(starts, ends, NONE)
        attributes = {
            k: v[rows] if isinstance(v, np.ndarray) else v for k, v in self.attributes.items() if not _unknown(v, rows)
        }
        return Timed(starts, ends, self.device[rows], attributes, {k: v[rows] for k, v in self.measures.items()})

    def parts(self) -> Iterator[tuple[Mask | None, dict[str, Column], dict[str, Floats]]]:
        """The rows of each block to make: those of the device's clock, and those of the host's; None for all where that
        timed them all.
        """
        if not self.any:
            yield None, {}, self.measures
            return
        shared = {key: value for key, value in self.attributes.items() if isinstance(value, str)}
        for rows, attributes in ((self.device, shared), (~self.device, {semconv.CLOCK.key: Clock.HOST})):
            if rows.any():
                columns = {
                    k: v[rows] for k, v in self.attributes.items() if rows is self.device and isinstance(v, np.ndarray)
                }
                yield rows, {**attributes, **columns}, {name: values[rows] for name, values in self.measures.items()}


def _shares(found: list[PlacedFrame | None]) -> dict[str, Floats]:
    """Columns of kernels' shares and of what sampling cost; none where no frame was sampled."""
    columns: dict[str, Floats] = {}
    for row, frame in enumerate(found):
        if frame is None or frame.shares is None or not frame.shares.by_part:
            continue
        values = {
            **{f"share_{part}": share for part, share in frame.shares.by_part.items()},
            "sample_cost": frame.shares.start_cost + frame.shares.stop_cost,
            "sample_read": frame.shares.read_cost,
        }
        for name, value in values.items():
            columns.setdefault(name, np.full(len(found), np.nan))[row] = value
    return columns


def _unknown(column: Column, rows: slice) -> bool:
    """Whether a column says nothing of these rows."""
    return isinstance(column, np.ndarray) and column.dtype.kind == "f" and bool(np.isnan(column[rows]).all())


class OnDevice:
    """One batch's look at what has been placed; what it took is gone from there. ``placed`` is None where there is no
    device clock.
    """

    def __init__(self, placed: Placed | None) -> None:
        self._placed = placed
        self._frames: Mask = NONE
        self.last = 0  # the latest moment that any record got

    def frames(self, starts: Ints, ends: Ints) -> Timed:
        """Frames, each from the device's coming by its entry to its coming by the next one's."""
        if self._placed is None:
            return Timed(starts, ends, NONE)
        found = [self._placed.frames.pop(start, None) for start in starts.tolist()]
        timed = self._timed(starts, ends, found)
        self._frames = timed.device
        if timed.any:
            error, idle, wait, host = np.full((4, len(starts)), np.nan)
            limits = np.full((len(FrameLimits._fields), len(starts)), np.nan)
            for row, frame in enumerate(found):
                if frame is not None:
                    error[row], idle[row] = frame.error, frame.idle
                    if frame.limits is not None:
                        wait[row], host[row] = frame.limits.device_wait, frame.limits.host_bound
                        limits[:, row] = frame.limits
                    if frame.last:  # what follows the last mark is the host's alone
                        timed.ends[row] = max(frame.end, int(ends[row]))
            clock = np.where(timed.device, Clock.DEVICE, Clock.HOST)
            shares = _shares(found)
            timed.attributes = {
                semconv.CLOCK.key: clock,
                semconv.CLOCK_ERROR.key: error,
                semconv.FRAME_DEVICE_WAIT.key: wait,
                semconv.FRAME_HOST_BOUND.key: host,
                semconv.FRAME_IDLE_SHARE.key: idle,
                **{semconv.KERNEL_SHARES[name].key: values for name, values in shares.items()},
            }
            timed.measures = {**dict(zip(FrameLimits._fields, limits, strict=True)), **shares}
        self._seen(timed)
        return timed

    def steps(self, starts: Ints, ends: Ints, frame: Ints) -> Timed:
        """Diffusion steps; ``frame`` is the place of each one's frame among those of :meth:`frames`."""
        if self._placed is None:
            return Timed(starts, ends, NONE)
        names = ends.tolist()
        found = [self._placed.steps.pop(name, None) for name in names]
        allowed = self._frames[frame]
        timed = self._timed(
            starts, ends, [step if ok else None for step, ok in zip(found, allowed.tolist(), strict=True)]
        )
        for name, dry in (("launch_latency", True), ("queue_latency", False)):
            values = [s.latency if s is not None and s.dry is dry else np.nan for s in found]
            if timed.any:
                timed.measures[name] = np.where(timed.device, values, np.nan)
        growth = np.array([self._placed.growth.pop(name, np.nan) for name in names], np.float64)
        if not np.isnan(growth).all():
            timed.measures["memory_increase"], timed.measures["memory_decrease"] = (
                np.maximum(growth, 0),
                np.maximum(-growth, 0),
            )
        self._seen(timed)
        return timed

    def leaves(self, counts: list[int], starts: Ints, ends: Ints, frame: Ints) -> Timed:
        """Intervals of all leaves, ``counts`` of each, one leaf after the other; ``frame`` as for steps, -1 for those
        outside any frame.
        """
        if self._placed is None:
            return Timed(starts, ends, NONE)
        leaves = [leaf for leaf, count in zip(Leaf, counts, strict=True) for _ in range(count)]
        names = list(zip(leaves, starts.tolist(), strict=True))
        inside = frame >= 0
        allowed = ~inside if not len(self._frames) else ~inside | self._frames[np.maximum(frame, 0)]
        found = [self._placed.leaves.pop(name, None) for name in names]
        timed = self._timed(
            starts, ends, [each if ok else None for each, ok in zip(found, allowed.tolist(), strict=True)]
        )
        errors = np.array([self._placed.errors.pop(name, np.nan) for name in names])
        if timed.any:
            errors[counts[Leaf.PREFILL] :] = np.nan  # the others have their frame's
            timed.attributes[semconv.CLOCK_ERROR.key] = errors
        self._seen(timed)
        return timed

    def _seen(self, timed: Timed) -> None:
        if timed.any:
            self.last = max(self.last, int(timed.ends[timed.device].max()))

    @staticmethod
    def _timed(
        starts: Ints, ends: Ints, found: list[PlacedFrame | None] | list[PlacedStep | None] | list[Interval | None]
    ) -> Timed:
        device = np.array([each is not None for each in found], bool)
        timed = Timed(starts, ends, device)
        if device.any():
            timed.starts, timed.ends = starts.copy(), ends.copy()
            for row, each in enumerate(found):
                if each is not None:
                    timed.starts[row], timed.ends[row] = each.start, each.end
            timed.attributes = {semconv.CLOCK.key: Clock.DEVICE, semconv.HOST_DURATION.key: (ends - starts) / 1e9}
        return timed
