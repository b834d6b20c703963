"""From marks to times: device intervals on the host's clock, with the error that they may have. On the recorder's
thread; never synchronises: it polls the events.

How an event finds its host time without a synchronisation: it cannot have been passed before the host put it in, nor
after the moment at which the host saw that it was. Distances between events are the device's own and exact to the
rounding of float32 milliseconds, so every such bound on one event bounds all its neighbours. Where the stream was dry
the lower bound is within a launch of the truth, and where the model itself has just waited the upper one is within a
wake-up; between the two lies the estimate, and half their distance is its error. Each frame has an anchor of its own,
since a float32 of milliseconds grows coarse with their number.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.device.interface import Device, Event
from vibevoice_otel.recording.device.limits import LAUNCH, FrameLimits, Turn, frame_limits
from vibevoice_otel.recording.device.marks import BASE, FRAME, SEEN, STEP, Mark, left
from vibevoice_otel.recording.device.profile import Shares, Taken
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.semconv import SharePart

#: Seconds for which a device that does not come by is asked, and pauses between the questions.
PATIENCE = 2.0
PAUSE = 0.001
#: Seconds between two looks at a device that works for a request. Of a model that does not wait for it, or is not
#: looked at when it has, only a look bounds a frame's times from above, and the sooner the closer.
LOOK = 0.05
#: Where the thread that generates saw the frame done (a SEEN mark), that bound is closer than any look's: to look
#: rarely costs no truth, and keeps a second's marks.
LOOK_SEEN = 1.0
#: Where the upper bound is no better than this (ns), only polled for long after, an estimate in the middle would be far
#: off: a launch takes some microseconds, so the lower bound is then the better one. The stated error is the distance to
#: the upper bound all the same.
LOOSE = 200_000
#: Bounds of a time of which nothing is known.
UNBOUNDED = (-math.inf, math.inf)
#: Part of a sampled frame -> the leaves that make it, beside the steps.
SHARE_LEAVES = {SharePart.PASSES: (Leaf.LM_POSITIVE, Leaf.LM_NEGATIVE), SharePart.DECODE: (Leaf.DECODE,)}


class Interval(NamedTuple):
    """Nanoseconds on the host's monotonic clock."""

    start: int
    end: int


class PlacedFrame(NamedTuple):
    start: int
    end: int
    error: float  # seconds, of every time in this frame
    idle: float  # least share of the frame in which the device had nothing to do
    last: bool  # no frame followed: it ends with what the device did last
    limits: FrameLimits | None
    shares: Shares | None = None


class PlacedStep(NamedTuple):
    start: int
    end: int
    latency: float  # seconds from the host's beginning the step until the device came by
    dry: bool  # it had no other work then


@dataclass(slots=True)
class Placed:
    """What has been placed, by the host times under which the timeline has it."""

    frames: dict[int, PlacedFrame] = field(default_factory=dict)  # by entry
    steps: dict[int, PlacedStep] = field(default_factory=dict)  # by end
    leaves: dict[tuple[Leaf, int], Interval] = field(default_factory=dict)  # by leaf and start
    errors: dict[tuple[Leaf, int], float] = field(default_factory=dict)  # seconds, of leaves before the first frame
    growth: dict[int, int] = field(default_factory=dict)  # bytes, by a step's end


@dataclass(slots=True)
class _Group:
    """The marks from one frame's entry up to the next one's, times relative to the first event."""

    marks: list[Mark]
    relative: list[float] = field(default_factory=list)  # ns, of each mark that has an event; nan for the others
    following: Mark | None = None  # the next frame's entry, where it has an event
    error: float = 0.0  # the greatest of those distances, ns
    low: float = -math.inf  # bounds on the first event's host time
    high: float = math.inf
    onward: tuple[float, float] = (0.0, math.inf)  # to that entry, and the error of that; no end of it where unknown


class Placing:
    """Reads a request's marks as they become readable.

    Args:
        marks: filled by the thread that generates, emptied here.
    """

    def __init__(
        self,
        device: Device,
        marks: list[Mark],
        clock: Callable[[], int] = now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.placed = Placed()
        #: Filled by the thread that generates: at each frame's entry, and at the generation's end.
        self.turns: list[Turn] = []
        #: Frames that a profiler disturbed, by entry, and what it saw of the sampled one. Filled by the thread that
        #: generates.
        self.samples: dict[int, Taken | None] = {}
        self._device = device
        self._marks = marks
        self._clock = clock
        self._sleep = sleep
        self._carried = UNBOUNDED  # bounds on the first event that is still to be read
        self._seen = False  # the thread that generates saw the frame done that was read last
        self._entry = 0  # the latest frame's, when this was last looked at
        self._unread = False  # the device had not passed all of a frame that is over

    @property
    def until(self) -> int | None:
        """Entry (host time) of the first frame whose device times are still unknown; None while no frame has begun."""
        return next((mark.key for mark in self._marks[:] if mark.kind == FRAME), None)

    def collect(self, *, final: bool = False, patience: float = PATIENCE) -> None:
        """Place what the device has passed. With ``final`` everything: what it has not passed within ``patience`` s
        stays on host time.
        """
        deadline = self._clock() + int(patience * 1e9) if final else None
        groups: list[_Group] = []
        while True:
            end = self._group_end(final=final)
            if end is None:
                break
            marks = self._marks[:end]
            following = self._marks[end] if end < len(self._marks) else None
            group = self._read(marks, following, deadline)
            if (
                group is None and final and following is not None
            ):  # the device did this frame, and hangs before the next
                group = self._read(marks, None, deadline)
            if group is None and not final and self._may_come(marks):
                break
            self.placed.growth.update((mark.key, mark.growth) for mark in marks if mark.growth is not None)
            if group is not None:
                groups.append(group)
            else:
                self._emit(groups)
                groups, self._carried = [], UNBOUNDED  # the chain is broken
                self._forget(marks)
            del self._marks[:end]
        if groups:
            self._carried = self._emit(groups)

    def look(self) -> float:
        """Collect where a frame has ended since the last look; seconds until the next look is worth its cost.

        The recorder's thread holds the interpreter meanwhile, which the model's threads want: a look that finds no
        frame ended reads no mark.
        """
        entry = self.turns[-1].host if self.turns else 0
        if entry != self._entry or self._unread:
            self._entry = entry
            self.collect()
            self._unread = self._group_end(final=False) is not None
        return LOOK if self._unread or not self._seen else LOOK_SEEN

    # ---------------------------------------------------------------------------------------------------------- reading

    def _group_end(self, *, final: bool) -> int | None:
        for index, mark in enumerate(self._marks):
            if index and mark.kind == FRAME:
                return index
        return len(self._marks) if final and self._marks else None

    def _may_come(self, marks: list[Mark]) -> bool:
        """Whether the device may yet come by all of ``marks``: every one has an event, and the youngest is not long
        overdue.
        """
        whole = all(mark.event is not None for mark in marks if mark.kind != SEEN)
        return whole and self._clock() - marks[-1].host < PATIENCE * 1e9

    def _read(self, marks: list[Mark], following: Mark | None, deadline: int | None) -> _Group | None:
        """The group of ``marks`` when the device has passed them all (by ``deadline``); None when not, or when none may
        be asked.
        """
        events = [mark.event for mark in marks if mark.kind != SEEN]
        if following is not None and following.event is not None:
            events.append(following.event)
        whole = [event for event in events if event is not None]
        if not whole or len(whole) < len(events):
            return None
        while True:
            try:
                with self._device.reading() as allowed:
                    if allowed and all(event.query() for event in reversed(whole)):
                        return self._relative(marks, following, self._clock())
            except Exception:  # noqa: BLE001 - the device is lost, or an event went into a captured graph: the host's times stand
                return None
            if deadline is None or self._clock() >= deadline:
                return None
            self._sleep(PAUSE)

    def _relative(self, marks: list[Mark], following: Mark | None, seen: int) -> _Group:
        anchor = next(mark.event for mark in marks if mark.event is not None)
        group = _Group(marks)
        at, error = 0.0, 0.0
        for mark in marks:
            if mark.event is None:  # SEEN: by then the event before it had been passed
                group.high = min(group.high, mark.host - at + error)
                group.relative.append(math.nan)
                continue
            at, error = (0.0, 0.0) if mark.event is anchor else self._distance(anchor, mark.event)
            group.relative.append(at)
            group.error = max(group.error, error)
            group.low = max(group.low, mark.host - at - error)
        self._seen = group.high < math.inf
        group.high = min(group.high, seen - at + error)
        if following is not None and following.event is not None:
            group.following, group.onward = following, self._distance(anchor, following.event)
        self._device.pool.give([mark.event for mark in marks if mark.event is not None])
        return group

    def _distance(self, start: Event, end: Event) -> tuple[float, float]:
        """(ns, its error) between two events."""
        milliseconds = start.elapsed_time(end)
        rounding = math.ldexp(1.0, math.frexp(milliseconds)[1] - 24) * 1e6  # a unit in the last place of a float32
        return milliseconds * 1e6, self._device.resolution + rounding + self._device.drift * milliseconds * 1e6

    def _forget(self, marks: list[Mark]) -> None:
        """Marks that will not be read: events that the device has passed can be used again, the others are dropped."""
        events = [mark.event for mark in marks if mark.event is not None]
        passed: list[Event] = []
        with contextlib.suppress(Exception), self._device.reading() as allowed:
            passed = [event for event in events if allowed and event.query()]
        self._device.pool.give(passed)
        self._device.pool.lose(len(events) - len(passed))

    # ---------------------------------------------------------------------------------------------------------- placing

    def _emit(self, groups: list[_Group]) -> tuple[float, float]:
        """Place ``groups``, neighbours all; the bounds that they give the next one's first event."""
        low, high = self._carried
        for group in groups:
            distance, error = group.onward
            group.low, group.high = max(group.low, low), min(group.high, high)
            low, high = group.low + distance - error, group.high + distance + error
        for group, later in zip(reversed(groups[:-1]), reversed(groups[1:]), strict=True):
            distance, error = group.onward
            group.low = max(group.low, later.low - distance - error)
            group.high = min(group.high, later.high - distance + error)
        for group in groups:
            self._place(group)
        return low, high

    def _place(self, group: _Group) -> None:
        origin, half = _origin(group)
        error = (half + group.error) / 1e9
        marked = [
            (mark, origin + round(at))
            for mark, at in zip(group.marks, group.relative, strict=True)
            if not math.isnan(at)
        ]
        seen = [
            (sum(each.kind != SEEN for each in group.marks[:index]) - 1, mark.host)
            for index, mark in enumerate(group.marks)
            if mark.kind == SEEN
        ]
        before, since = marked[0]
        opened: dict[int, int] = {}
        for mark, at in marked:
            if mark.kind == BASE:
                before, since = mark, at
            elif mark.kind == STEP:
                self.placed.steps[mark.key] = PlacedStep(since, at, max(0, since - before.host) / 1e9, before.dry)
                before, since = mark, at
            elif mark.kind >= 0 and mark.kind % 2 == 0:
                opened[mark.kind // 2] = at
            elif mark.kind >= 0 and mark.kind // 2 in opened:
                name = (Leaf(mark.kind // 2), mark.key)
                self.placed.leaves[name] = Interval(opened.pop(mark.kind // 2), at)
                if group.marks[0].kind != FRAME:
                    self.placed.errors[name] = error
        first, start = marked[0]
        if first.kind == FRAME:
            if group.following is not None:
                marked.append((group.following, origin + round(group.onward[0])))
            end = marked[-1][1]
            share = min(1.0, sum(_idle(marked)) / (end - start)) if end > start else 0.0
            limits = frame_limits(marked, *self._turns_of(first.key), group.error, half, seen)
            shares = None
            if first.key in self.samples:
                taken, limits = self.samples.pop(first.key), None
                shares = taken.shares(self._parts_of(marked)) if taken is not None else None
            self.placed.frames[first.key] = PlacedFrame(
                start, end, error, share, group.following is None, limits, shares
            )

    def _parts_of(self, marked: list[tuple[Mark, int]]) -> dict[str, list[Interval]]:
        """Placed intervals of the frame of ``marked``, by part."""
        steps = [self.placed.steps[mark.key] for mark, _ in marked if mark.kind == STEP]
        found = {SharePart.STEPS.value: [Interval(step.start, step.end) for step in steps]}
        for part, leaves in SHARE_LEAVES.items():
            ends = {left(leaf): leaf for leaf in leaves}
            names = [(ends[mark.kind], mark.key) for mark, _ in marked if mark.kind in ends]
            found[part.value] = [self.placed.leaves[name] for name in names if name in self.placed.leaves]
        return found

    def _turns_of(self, entry: int) -> tuple[Turn | None, Turn | None]:
        """What was noted at the frame's ``entry``, and next; what was noted before it is dropped."""
        turns = self.turns
        while turns and turns[0].host < entry:
            del turns[0]
        if not turns or turns[0].host != entry:
            return None, None
        return turns[0], turns[1] if len(turns) > 1 else None


def _origin(group: _Group) -> tuple[int, float]:
    """(host time of the group's first event, its error in ns): between the bounds, and never before the host put the
    event in.
    """
    low, high = sorted((group.low, group.high))  # crossed where the clocks ran further apart than stated
    middle = (low + high) / 2 if high - low <= LOOSE else low + LAUNCH
    floor = next(mark.host for mark in group.marks if mark.event is not None)
    origin = max(math.ceil(middle), floor)
    return origin, max(high - origin, origin - low, 0.0)


def _idle(marked: list[tuple[Mark, int]]) -> Iterator[int]:
    """Nanoseconds, before each mark that found the stream dry, in which the device surely had nothing to do.

    Between two observed parts that is all the time since the last one's end. Inside a part it is unknown when the work
    ran out, so only the launch of the mark itself counts: the sum is the least that the device idled.
    """
    for (before, since), (mark, at) in pairwise(marked):
        if mark.dry:
            between = (before.kind == STEP and mark.kind != STEP) or (before.kind >= 0 and before.kind % 2 == 1)
            yield max(0, at - (since if between else max(since, mark.host)))
