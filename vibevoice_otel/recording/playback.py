"""What a listener who plays at once would hear: a model of the playback buffer, fed with the sends."""

from __future__ import annotations

from collections.abc import Sequence

from vibevoice_otel.semconv import SAMPLE_RATE_HZ

BYTES_PER_SECOND = SAMPLE_RATE_HZ * 2  # PCM16, mono


class Playback:
    """Playback starts when the first send returns and never waits: whenever it has no audio left, that is an underrun."""

    def __init__(self) -> None:
        self._empty_at = 0
        self.started = False
        self.underruns = 0
        self._stalled = 0

    @property
    def stalled_seconds(self) -> float:
        return self._stalled / 1e9

    def play(self, sends: Sequence[int]) -> int:
        """Feed flat (start, end, bytes) triples of sends not seen before; returns the underruns among them."""
        before = self.underruns
        for position in range(0, len(sends), 3):
            arrived = sends[position + 1]
            duration = sends[position + 2] * 1_000_000_000 // BYTES_PER_SECOND
            if not self.started:
                self.started = True
                self._empty_at = arrived + duration
            elif arrived > self._empty_at:
                self.underruns += 1
                self._stalled += arrived - self._empty_at
                self._empty_at = arrived + duration
            else:
                self._empty_at += duration
        return self.underruns - before
