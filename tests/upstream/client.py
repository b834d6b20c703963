"""A listener: one WebSocket request, and everything that came back with the time of its arrival."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import urllib.parse
from dataclasses import dataclass, field

import numpy as np
import websockets


@dataclass
class Heard:
    trace_id: str
    begun: int  # host clock, ns since the epoch, right before the connection is opened
    chunks: list[int] = field(default_factory=list)  # sizes in bytes
    arrivals: list[int] = field(default_factory=list)  # host clock, ns
    loudest: int = 0
    events: list[str] = field(default_factory=list)
    close_code: int | None = None
    seconds: float = 0.0

    @property
    def first_audio(self) -> float:
        """Seconds from the connection's beginning to the first audio received."""
        return (self.arrivals[0] - self.begun) / 1e9


async def listen(
    port: int, *, leave_after: int | None = None, hold: asyncio.Event | None = None, **query: object
) -> Heard:
    """Speak to /stream. ``leave_after`` hangs up, without a close frame, after so many chunks; ``hold`` is set at the
    first one.
    """
    trace_id = secrets.token_hex(16)
    url = f"ws://127.0.0.1:{port}/stream?{urllib.parse.urlencode(query)}"
    headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    heard = Heard(trace_id, time.time_ns())
    began = time.monotonic()
    socket = await websockets.connect(url, additional_headers=headers, max_size=None, ping_interval=None)
    try:
        while leave_after is None or len(heard.chunks) < leave_after:
            message = await socket.recv()
            if isinstance(message, str):
                heard.events.append(json.loads(message)["event"])
                continue
            heard.arrivals.append(time.time_ns())
            heard.chunks.append(len(message))
            heard.loudest = max(heard.loudest, int(np.abs(np.frombuffer(message, np.int16).astype(int)).max()))
            if hold is not None:
                hold.set()
    except websockets.ConnectionClosed as closed:
        heard.close_code = closed.rcvd.code if closed.rcvd else None
    finally:
        if leave_after is not None:
            socket.transport.abort()
        else:
            await socket.close()
    heard.seconds = time.monotonic() - began
    return heard


def ask(port: int, **query: object) -> Heard:
    """``listen`` from outside a loop."""
    return asyncio.run(listen(port, **query))  # type: ignore[arg-type]
