"""One listener's WebSocket: log messages from any thread, a watch on whether he is still there, and sends that end in
time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Awaitable
from datetime import datetime, timezone
from typing import Any

from fastapi import WebSocket
from opentelemetry import propagate
from starlette.websockets import WebSocketDisconnect

#: Seconds that a listener who reads nothing can hold up the last messages and the close.
CLOSE_GRACE = 5.0


class Session:
    """``stop`` (for threads) and ``left`` (for the event loop) are set when the listener leaves.

    Args:
        socket: accepted.
        deadline: time.monotonic() at which the request's time is over.
    """

    def __init__(self, socket: WebSocket, deadline: float) -> None:
        self._socket, self._deadline = socket, deadline
        self._entries: deque[tuple[str, dict[str, Any]]] = deque()
        self.stop = threading.Event()
        self.left = asyncio.Event()
        self._began = time.monotonic()
        self._first_audio: float | None = None
        self._bytes = 0

    def log(self, event: str, **data: Any) -> None:
        """Queue a log message for the listener; from any thread."""
        self._entries.append((event, data))

    async def send_audio(self, payload: bytes) -> None:
        """Send a chunk, and queue a log message after the first.

        Raises:
            TimeoutError: when the listener reads too slowly for the request's time.
            WebSocketDisconnect: when he has left.
        """
        await self._in_time(self._socket.send_bytes(payload), self._deadline)
        if self._first_audio is None:
            self._first_audio = time.monotonic() - self._began
            self.log("backend_first_chunk_sent")
        self._bytes += len(payload)

    def summary(self) -> dict[str, Any]:
        """The trace (W3C traceparent, where there is one), and seconds from the acceptance by this service's
        own clock.
        """
        trace: dict[str, str] = {}
        propagate.inject(trace)
        return {
            "traceparent": trace.get("traceparent"), "first_audio": self._first_audio,
            "audio_sec": self._bytes / 48_000, "total": time.monotonic() - self._began,
        }  # fmt: skip

    async def flush(self, deadline: float | None = None) -> None:
        """Send the queued log messages until ``deadline`` (the request's own by default).

        Raises as ``send_audio`` does.
        """
        while self._entries:
            event, data = self._entries.popleft()
            stamp = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
            message = json.dumps({"type": "log", "event": event, "data": data, "timestamp": stamp})
            await self._in_time(self._socket.send_text(message), self._deadline if deadline is None else deadline)

    async def watch(self) -> None:
        """Return when the listener leaves, whatever the service is doing meanwhile. What he sends is ignored."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while (await self._socket.receive())["type"] != "websocket.disconnect":
                pass
        self.stop.set()
        self.left.set()

    async def close(self, code: int, reason: str = "") -> None:
        """Send what is queued and close, unless the listener has left. Never raises."""
        deadline = time.monotonic() + CLOSE_GRACE
        with contextlib.suppress(Exception):
            if not self.left.is_set():
                await self.flush(deadline)
        with contextlib.suppress(Exception):
            if not self.left.is_set():
                await self._in_time(self._socket.close(code, reason), deadline)

    @staticmethod
    async def _in_time(sending: Awaitable[None], deadline: float) -> None:
        try:
            await asyncio.wait_for(sending, max(0.001, deadline - time.monotonic()))
        except asyncio.TimeoutError:  # not the built-in one before Python 3.11
            raise TimeoutError("the listener took longer than the service allows") from None
