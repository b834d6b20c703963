"""Which requests work now, which wait, and which are turned away."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """At most ``concurrency`` requests work and ``queue`` wait, first come, first served. For one event loop, never
    several threads.
    """

    def __init__(self, concurrency: int, queue: int) -> None:
        self.capacity = concurrency
        self._free, self._queue = concurrency, queue
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def working(self) -> int:
        """Requests that work now. Any thread may read it."""
        return self.capacity - self._free

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn. Any thread may read it."""
        return len(self._waiting)

    def enter(self) -> asyncio.Future[None] | None:
        """What is done when it is this request's turn; None when no place is left.
        A place is given back by ``leave``.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._free > 0:
            self._free -= 1
            turn.set_result(None)
        elif len(self._waiting) < self._queue:
            self._waiting.append(turn)
        else:
            return None
        return turn

    def leave(self, turn: asyncio.Future[None]) -> None:
        """Give back a turn, to the next that waits, or only a place in the queue."""
        if turn in self._waiting:
            self._waiting.remove(turn)
            turn.cancel()
        elif self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._free += 1
