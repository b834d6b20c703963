"""A listener over HTTP or a WebSocket: one request, every part of the answer with the time of its arrival, on the clock
of the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from dataclasses import dataclass, field

import websockets

from vibevoice_otel.recording.clock import Anchor


@dataclass
class Answer:
    trace_id: str
    begun: int  # ns of the monotonic clock, right before the connection is opened
    status: int = 0
    body: bytes = b""
    arrivals: list[tuple[int, int]] = field(default_factory=list)  # moment, bytes of the body up to then
    anchor: Anchor = field(default_factory=Anchor.take)

    def arrival(self, beyond: int) -> int:
        """When the first byte past ``beyond`` bytes of the body was there."""
        return next(at for at, size in self.arrivals if size > beyond)

    def take(self, part: bytes) -> None:
        self.arrivals.append((time.perf_counter_ns(), len(self.body) + len(part)))
        self.body += part

    def monotonic(self, wall: int) -> int:
        """The monotonic clock's reading at ``wall`` nanoseconds since 1970, a moment of this request."""
        return wall - self.anchor.wall + self.anchor.monotonic


async def ask(
    port: int,
    path: str,
    payload: bytes,
    kind: str = "application/json",
    *,
    leave_after: int | None = None,
    method: str = "POST",
) -> Answer:
    """Ask by ``method`` with ``payload``; ``leave_after`` hangs up after so many bytes of the body."""
    answer = Answer(secrets.token_hex(16), time.perf_counter_ns())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: "
        f"{len(payload)}\r\n"
        f"traceparent: 00-{answer.trace_id}-{secrets.token_hex(8)}-01\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        answer.status = int(lines[0].split()[1])
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if line)
        parts = _chunked(reader) if headers.get(b"transfer-encoding") == b"chunked" else _plain(reader)
        async for part in parts:
            answer.take(part)
            if leave_after is not None and len(answer.body) >= leave_after:
                writer.transport.abort()
                return answer
    finally:
        writer.close()
    return answer


async def _plain(reader: asyncio.StreamReader):
    while part := await reader.read(1 << 16):
        yield part


async def _chunked(reader: asyncio.StreamReader):
    with contextlib.suppress(asyncio.IncompleteReadError):  # the server broke off
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)


async def converse(
    port: int, path: str, *says: str, leave_after: int | None = None, kind: type[str | bytes] = bytes
) -> Answer:
    """Open a WebSocket, say ``says``, and take the messages of this kind as the body; ``status`` is the close code."""
    answer = Answer(secrets.token_hex(16), time.perf_counter_ns())
    headers = {"traceparent": f"00-{answer.trace_id}-{secrets.token_hex(8)}-01"}
    url = f"ws://127.0.0.1:{port}{path}"
    socket = await websockets.connect(
        url, additional_headers=headers, max_size=None, open_timeout=60, ping_interval=None
    )
    try:
        for each in says:
            await socket.send(each)
        while leave_after is None or len(answer.body) < leave_after:
            message = await socket.recv()
            if isinstance(message, kind):
                answer.take(message.encode() if isinstance(message, str) else message)
    except websockets.ConnectionClosed as closed:
        answer.status = closed.rcvd.code if closed.rcvd else 1006
    else:
        socket.transport.abort()
    return answer


def post(port: int, path: str, *, leave_after: int | None = None, **wish: object) -> Answer:
    """``ask`` with a JSON body, from outside a loop."""
    return asyncio.run(ask(port, path, json.dumps(wish).encode(), leave_after=leave_after))
