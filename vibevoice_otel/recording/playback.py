"""What a listener hears between the sends: a model of the playback buffer,
and the cadence in which audio reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel.recording.records import Ints
from vibevoice_otel.semconv import PCM_BYTES_PER_SECOND


class Playback:
    """The buffer of a listener who plays as soon as ``ahead`` seconds of audio have arrived, and never waits on purpose
    again.

    Whenever the buffer is empty, that is an underrun: silence until the next send returns.

    Args:
        ahead: seconds of audio gathered before the first sound; 0 for a listener who plays at once.
    """

    def __init__(self, ahead: float = 0.0) -> None:
        self._ahead = round(ahead * 1e9)
        self._gathered = 0  # ns of audio that wait for the start
        self._empty_at = 0
        self.started = False
        self.underruns = 0
        self._stalled = 0
        self.worst_gap = 0.0  # seconds of the longest underrun

    @property
    def stalled_seconds(self) -> float:
        """Silence of all underruns."""
        return self._stalled / 1e9

    def play(self, sends: Sequence[int], byte_rate: int = PCM_BYTES_PER_SECOND) -> int:
        """Feed flat (start, end, bytes) triples of sends not seen before, ``byte_rate`` bytes a second; returns the
        underruns.
        """
        before = self.underruns
        for position in range(0, len(sends), 3):
            arrived = sends[position + 1]
            duration = sends[position + 2] * 1_000_000_000 // byte_rate
            if not self.started:
                self._gathered += duration
                self.started = self._gathered >= self._ahead
                self._empty_at = arrived + self._gathered
            elif arrived > self._empty_at:
                self._silence(arrived)
                self._empty_at = arrived + duration
            else:
                self._empty_at += duration
        return self.underruns - before

    def give_up(self, at: int) -> int:
        """The stream ends unfinished at ``at`` (ns): what the listener waited in silence until then counts. Returns 0
        or 1 underrun.
        """
        if not self.started or at <= self._empty_at:
            return 0
        self._silence(at)
        self._empty_at = at
        return 1

    def _silence(self, until: int) -> None:
        gap = until - self._empty_at
        self.underruns += 1
        self._stalled += gap
        self.worst_gap = max(self.worst_gap, gap / 1e9)


class Cadence:
    """Intervals between the returns of consecutive sends, and how much they vary."""

    def __init__(self) -> None:
        self._last: int | None = None  # return of the latest send
        self._interval: float | None = None  # the latest interval
        self._changes = 0
        self._varied = 0.0
        self.longest_send = 0  # ns; a send that takes long waits for a listener who does not read

    @property
    def jitter(self) -> float | None:
        """Mean absolute difference in seconds between one interval and the next; None with fewer than two intervals."""
        return self._varied / self._changes if self._changes else None

    def take(self, sends: Ints) -> NDArray[np.float64]:
        """Seconds between the sends (n, 3), and between the first of them and the one before; returns shape (n,) or (n
        - 1,).
        """
        if not len(sends):
            return np.empty(0)
        ends = sends[:, 1]
        self.longest_send = max(self.longest_send, int((ends - sends[:, 0]).max()))
        if self._last is not None:
            ends = np.concatenate(([self._last], ends))
        self._last = int(ends[-1])
        intervals = (ends[1:] - ends[:-1]) / 1e9
        if len(intervals):
            known = intervals if self._interval is None else np.concatenate(([self._interval], intervals))
            self._varied += float(np.abs(known[1:] - known[:-1]).sum())
            self._changes += len(known) - 1
            self._interval = float(intervals[-1])
        return intervals
