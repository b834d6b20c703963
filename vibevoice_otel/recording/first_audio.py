"""Where the first-audio latency went: consecutive parts that add up to it exactly."""

from __future__ import annotations

from collections.abc import Iterable

from vibevoice_otel.semconv import Part


class FirstAudioParts:
    """Collects early intervals of one request, then cuts its first-audio latency along them."""

    def __init__(self) -> None:
        self._intervals: list[tuple[int, int, str]] = []
        self._first_decode: int | None = None

    def add(self, intervals: Iterable[tuple[int, int, str]]) -> None:
        """Add (start, end, part) triples; what starts after the first decode ended is of no interest."""
        for start, end, part in intervals:
            if part == Part.DECODE and (self._first_decode is None or end < self._first_decode):
                self._first_decode = end
            if self._first_decode is None or start < self._first_decode:
                self._intervals.append((start, end, part))

    def divide(self, begun: int, first_send_end: int) -> dict[str, float]:
        """Seconds of each part from ``begun`` to ``first_send_end`` (monotonic nanoseconds); the sum is their distance.

        Where two intervals overlap the earlier one keeps the time. Time under none is ``delivery`` after the first
        decode, ``other`` before.
        """
        border = min(self._first_decode, first_send_end) if self._first_decode is not None else first_send_end
        totals = dict.fromkeys(Part.ALL, 0)
        at = begun
        for start, end, part in sorted(self._intervals):
            if start >= border:
                break
            if start > at:
                totals[Part.OTHER] += start - at
                at = start
            until = min(end, border)
            if until > at:
                totals[part] += until - at
                at = until
        totals[Part.OTHER] += max(0, border - at)
        totals[Part.DELIVERY] += first_send_end - max(border, begun)
        return {part: nanoseconds / 1e9 for part, nanoseconds in totals.items()}
