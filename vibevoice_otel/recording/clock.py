"""One clock a request: durations from the monotonic counter, placed on the wall by a single anchor.

A step of the wall clock (NTP) while a request runs can therefore never make a duration negative or split its trace.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

#: The hot path's clock, nanoseconds. perf_counter_ns is CLOCK_MONOTONIC on Linux: one origin for every thread.
now = time.perf_counter_ns


@dataclass(frozen=True, slots=True)
class Anchor:
    """``wall`` nanoseconds since 1970 at the monotonic instant ``monotonic``."""

    wall: int
    monotonic: int

    @classmethod
    def take(cls) -> Anchor:
        """Read both clocks as close together as three tries allow (the pair with the least time between them)."""
        tries = [(now(), time.time_ns(), now()) for _ in range(3)]
        before, wall, after = min(tries, key=lambda read: read[2] - read[0])
        return cls(wall, (before + after) // 2)

    def to_wall(self, monotonic: int) -> int:
        """Nanoseconds since 1970 of a monotonic instant."""
        return self.wall + (monotonic - self.monotonic)
