"""Device times in the place of host times: what the assembler asks for each kind of record.

A frame is on the device's clock with all that is in it, or not at all: where a mark could not be made or read, the
whole frame stays on the host's. Records of the two clocks never share a block, so that they never share a series.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel import semconv
from vibevoice_otel.recording.device.limits import FrameLimits
from vibevoice_otel.recording.device.placing import Interval, Placed, PlacedFrame, PlacedStep
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.records import Block
from vibevoice_otel.semconv import Clock

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
NONE: Mask = np.empty(0, bool)
NO_LIMITS = FrameLimits(*[math.nan] * len(FrameLimits._fields))
NO_FRAME = PlacedFrame(0, 0, math.nan, math.nan, last=False, limits=None)


def by_clock(block: Block, device: Mask) -> list[Block]:
    """A block of the rows that the device's clock timed, and one of those that the host's did. ``device`` says which,
    and is empty where no device times anything.
    """
    if not len(device) or not device.any():
        return [block]
    made = []
    for rows, clock in ((device, Clock.DEVICE), (~device, Clock.HOST)):
        if rows.any():
            part = block.take(rows)
            part.attributes[semconv.CLOCK.key] = clock
            made.append(part)
    return made


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


def _told(frame: PlacedFrame) -> tuple[float, ...]:
    """(clock error, least idle share, device wait, host bound, and each of the limits); nan for what is unknown."""
    limits = frame.limits or NO_LIMITS
    return frame.error, frame.idle, limits.device_wait, limits.host_bound, *limits


class OnDevice:
    """One batch's look at what has been placed; what it took is gone from there. ``placed`` is None where there is no
    device clock.

    Each method puts the device's times in the place of the host's, with what they are worth, and returns which rows
    have them.
    """

    def __init__(self, placed: Placed | None) -> None:
        self._placed = placed
        self._frames: Mask = NONE
        self.last = 0  # the latest moment that any record got

    def frames(self, frames: Block) -> None:
        """Frames, each from the device's coming by its entry to its coming by the next one's."""
        if self._placed is None:
            return
        found = [self._placed.frames.pop(start, None) for start in frames.start.tolist()]
        ended = [  # what follows the last mark is the host's alone
            each._replace(end=max(each.end, end)) if each is not None and each.last else each
            for each, end in zip(found, frames.end.tolist(), strict=True)
        ]
        self._frames = self._timed(frames, ended)
        if self._frames.any():
            error, idle, wait, host, *limits = np.array([_told(each or NO_FRAME) for each in found]).T
            shares = _shares(found)
            frames.attributes |= {
                semconv.CLOCK.key: np.where(self._frames, Clock.DEVICE, Clock.HOST),
                semconv.CLOCK_ERROR.key: error,
                semconv.FRAME_DEVICE_WAIT.key: wait,
                semconv.FRAME_HOST_BOUND.key: host,
                semconv.FRAME_IDLE_SHARE.key: idle,
                **{semconv.KERNEL_SHARES[name].key: values for name, values in shares.items()},
            }
            frames.measures = {**dict(zip(FrameLimits._fields, limits, strict=True)), **shares}

    def steps(self, steps: Block, frame: NDArray[np.intp]) -> Mask:
        """Diffusion steps; ``frame`` is the place of each one's frame among those of :meth:`frames`."""
        if self._placed is None:
            return NONE
        names, host = steps.end.tolist(), steps.seconds
        found = [self._placed.steps.pop(name, None) for name in names]
        device = self._timed(steps, found, self._frames[frame])
        if device.any():
            steps.attributes[semconv.HOST_DURATION.key] = np.where(device, host, np.nan)
            for name, dry in (("launch_latency", True), ("queue_latency", False)):
                values = [s.latency if s is not None and s.dry is dry else np.nan for s in found]
                steps.measures[name] = np.where(device, values, np.nan)
        growth = np.array([self._placed.growth.pop(name, np.nan) for name in names], np.float64)
        if not np.isnan(growth).all():
            steps.measures["memory_increase"], steps.measures["memory_decrease"] = (
                np.maximum(growth, 0),
                np.maximum(-growth, 0),
            )
        return device

    def leaves(self, every: Block, counts: list[int], frame: NDArray[np.intp]) -> Mask:
        """Intervals of all leaves, ``counts`` of each, one leaf after the other; ``frame`` as for steps, -1 for those
        outside any frame.
        """
        if self._placed is None:
            return NONE
        leaves = [leaf for leaf, count in zip(Leaf, counts, strict=True) for _ in range(count)]
        names, host = list(zip(leaves, every.start.tolist(), strict=True)), every.seconds
        inside = frame >= 0
        allowed = ~inside if not len(self._frames) else ~inside | self._frames[np.maximum(frame, 0)]
        device = self._timed(every, [self._placed.leaves.pop(name, None) for name in names], allowed)
        errors = np.array([self._placed.errors.pop(name, np.nan) for name in names])
        if device.any():
            errors[counts[Leaf.PREFILL] :] = np.nan  # the others have their frame's
            every.attributes |= {
                semconv.CLOCK_ERROR.key: np.where(device, errors, np.nan),
                semconv.HOST_DURATION.key: np.where(device, host, np.nan),
            }
        return device

    def _timed(
        self,
        block: Block,
        found: Sequence[PlacedFrame | PlacedStep | Interval | None],
        allowed: Mask | None = None,
    ) -> Mask:
        """Give the rows that are ``allowed`` to have them the times that were ``found``."""
        device = np.array([each is not None for each in found], bool)
        if allowed is not None:
            device &= allowed
        if device.any():
            block.start, block.end = block.start.copy(), block.end.copy()
            for row in np.flatnonzero(device).tolist():
                block.start[row], block.end[row] = found[row].start, found[row].end
            self.last = max(self.last, int(block.end[device].max()))
        return device
