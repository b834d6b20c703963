"""What limited a frame: the card, another process on it, the host's core, or the interpreter's lock.

A host that launches slower than the card computes leaves the card idle between kernels, and an interval between two
events holds that idleness. What the host waited for the card is told by the marks themselves: after a mark it waited at
most from noting it until the card passed it, and no longer than until it noted the next one. A thread that has waited
long also takes a while to go on, as it would not had the card been done. Both, summed over a frame, are the most that a
faster card could save.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from vibevoice_otel.recording.device.marks import Mark
from vibevoice_otel.semconv import Limit

#: From the host's call until an idle card passes the mark, ns: assumed where no mark of the frame found the stream dry.
LAUNCH = 10_000
#: No launch takes longer, ns. A mark that found its stream dry and was passed later than this finds the card at another
#: process's work.
LAUNCH_MOST = 100_000
#: A thread that waited needs no longer to go on, ns: it wakes, and takes the interpreter's lock back, which another
#: thread gives up after 5 ms (sys.getswitchinterval's default).
WAKE_MOST = 5_000_000
#: After a shorter wait, ns, the thread goes on at once or nearly: it spins before it sleeps.
SPUN = 50_000
#: Seconds of frames below which :func:`verdict` says nothing.
LEAST_SECONDS = 5.0
#: Share of the frames' time from which waiting for the card is the limit: below it the host takes more.
CARD_SHARE = 0.5
#: Share of the waiting from which another process is its cause. Where two share a card evenly, half of the looks at
#: most find the other one at work; on an H100 3 of 8 did beside a process that multiplies matrices without pause, and
#: none did alone.
OTHER_SHARE = 0.25
#: Share of the frames' time from which waiting for the lock is the limit: of two threads that share it evenly, each
#: waits for half.
LOCK_SHARE = 0.25


class Turn(NamedTuple):
    """What the generating thread notes at a frame's entry and at the generation's end, beside its marks."""

    host: int  # monotonic ns
    cpu: int  # ns that the thread has run on a core so far
    streams: int  # that generate on this device in this process


class FrameLimits(NamedTuple):
    """Seconds of one frame by what they were spent on; their sum, but for ``error``, is the frame's time by the host's
    clock.

    ``other_process`` is an estimate: a mark that finds this process's stream dry is a look at whether the card is free,
    and the waiting is divided as these looks found it. It is made of frames during which no other stream of this
    process was open. ``unknown`` is what the host took where it is unknown whether the thread ran.
    """

    card: float
    other_process: float
    core: float
    lock: float
    unknown: float
    error: float  # by which device_wait may be off, either way; no part of the sum

    @property
    def device_wait(self) -> float:
        """The most that a faster card could save."""
        return self.card + self.other_process

    @property
    def host_bound(self) -> float:
        return self.core + self.lock + self.unknown


def frame_limits(
    marked: Sequence[tuple[Mark, int]],
    entry: Turn | None,
    following: Turn | None,
    distance_error: float = 0.0,
    origin_error: float = 0.0,
    seen: Sequence[tuple[int, int]] = (),
) -> FrameLimits | None:
    """The limits of a frame from its marks and the host time at which the card passed each.

    Args:
        marked: in order; the next frame's entry comes last, where there is one.
        entry: noted as the frame was entered.
        following: noted as the next one was, or as the generation ended.
        distance_error: ns by which a distance between two of these times may be off.
        origin_error: ns by which all of them may be off together. It divides out where a mark found the stream dry: the
            least time that such a mark took is the launch, and only what others took beyond it is waiting.
        seen: (index in ``marked``, host time) of each mark that the host was seen to have waited for, if it was not
            passed before.

    Returns:
        None for a frame without duration.
    """
    lags = [passed - mark.host for mark, passed in marked]
    dry = [lag for lag, (mark, _) in zip(lags, marked, strict=True) if mark.dry]
    floor = max(0, min(min(dry, default=LAUNCH), LAUNCH_MOST))
    each = distance_error if dry else distance_error + origin_error
    noted = [mark.host for mark, _ in marked]
    if following is not None and following.host > noted[-1]:
        noted.append(following.host)
    total = noted[-1] - noted[0]
    if total <= 0:
        return None
    alone = entry is not None and following is not None and entry.streams == following.streams == 1
    waking = _waking(marked, lags, floor, seen) if alone else 0
    waited = uncertain = 0
    for lag, (since, until) in zip(lags, pairwise(noted), strict=False):
        wait = max(0, min(lag - floor, until - since))
        waited += min(wait + (waking if wait > SPUN else min(waking, wait)), until - since)
        uncertain += 0 < wait < until - since  # the others are bounded by the host's own clock
    late = sum(lag - floor > LAUNCH_MOST for lag in dry) / len(dry) if dry and alone else 0.0
    host, foreign = total - waited, waited * late
    core, lock, unknown = _host(host, entry, following, total, alone=alone)
    return FrameLimits(
        (waited - foreign) / 1e9, foreign / 1e9, core / 1e9, lock / 1e9, unknown / 1e9, uncertain * each / 1e9
    )


def _waking(
    marked: Sequence[tuple[Mark, int]], lags: Sequence[int], floor: int, seen: Sequence[tuple[int, int]]
) -> int:
    """How long the thread takes to go on once the card is done, ns: the least of this frame's waits after which it
    looked at the card.
    """
    woke = (host - marked[index][1] for index, host in seen if lags[index] - floor > LAUNCH_MOST)
    return max(0, min(min(woke, default=0), WAKE_MOST))


def _host(host: int, entry: Turn | None, following: Turn | None, total: int, *, alone: bool) -> tuple[int, int, int]:
    """(core, lock, unknown), ns, of the ``host`` ns that were no waiting for the card.

    A thread that waits for the card may spin on its core or sleep, as the program chose, so its own work took at least
    ``ran`` less the waiting. Time off the core beyond the waiting is the lock's where other streams of this process
    want it, and else the lack of a core.
    """
    ran = following.cpu - entry.cpu if entry is not None and following is not None else -1
    if not 0 <= ran <= 1.05 * total + 1_000_000:  # another thread has gone on with the request
        return 0, 0, host
    lock = 0 if alone else max(0, host - ran)
    return host - lock, lock, 0


def verdict(seconds: Mapping[str, float], error: float = 0.0, least: float = LEAST_SECONDS) -> Limit:
    """The one word for frames that took ``seconds`` by :class:`semconv.Limit`, of whose waits ``error`` seconds are
    uncertain.

    Of frames of less than ``least`` seconds nothing is said.

    The rule vibevoice:limit (dashboards/recording.py) computes the same from the metric.
    """
    total = sum(seconds.values())
    card = seconds.get(Limit.CARD, 0.0) + seconds.get(Limit.OTHER_PROCESS, 0.0)
    if total < least or seconds.get(Limit.UNKNOWN, 0.0) > total / 2:
        return Limit.UNKNOWN
    if abs(card - CARD_SHARE * total) <= error:
        return Limit.UNKNOWN
    if card >= CARD_SHARE * total:
        return Limit.OTHER_PROCESS if seconds.get(Limit.OTHER_PROCESS, 0.0) >= OTHER_SHARE * card else Limit.CARD
    return Limit.LOCK if seconds.get(Limit.LOCK, 0.0) >= LOCK_SHARE * total else Limit.CORE
