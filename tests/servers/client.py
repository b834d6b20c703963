"""A listener over HTTP: one request, every part of the answer with the time of its arrival, on the clock of the host."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from dataclasses import dataclass, field


@dataclass
class Answer:
    trace_id: str
    begun: int  # ns of the monotonic clock, right before the connection is opened
    status: int = 0
    body: bytes = b""
    arrivals: list[tuple[int, int]] = field(default_factory=list)  # moment, bytes of the body up to then

    def arrival(self, beyond: int) -> int:
        """When the first byte past ``beyond`` bytes of the body was there."""
        return next(at for at, size in self.arrivals if size > beyond)


async def ask(
    port: int, path: str, payload: bytes, kind: str = "application/json", *, leave_after: int | None = None
) -> Answer:
    """POST ``payload``; ``leave_after`` hangs up after so many bytes of the body."""
    answer = Answer(secrets.token_hex(16), time.perf_counter_ns())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: "
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
            answer.body += part
            answer.arrivals.append((time.perf_counter_ns(), len(answer.body)))
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
    while True:
        try:
            size = int(await reader.readuntil(b"\r\n"), 16)
        except asyncio.IncompleteReadError:  # the server broke off
            return
        if not size:
            return
        yield await reader.readexactly(size)
        await reader.readexactly(2)


def post(port: int, path: str, *, leave_after: int | None = None, **wish: object) -> Answer:
    """``ask`` with a JSON body, from outside a loop."""
    return asyncio.run(ask(port, path, json.dumps(wish).encode(), leave_after=leave_after))
