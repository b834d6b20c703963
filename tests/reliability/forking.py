"""A request, a fork, two more requests in each; both end in the ordinary way."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from speaker import app


async def ask() -> None:
    asked = iter([{"type": "websocket.connect"}])

    async def receive() -> dict[str, Any]:
        for message in asked:
            return message
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        """Nobody listens."""

    scope = {
        "type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "ws", "path": "/stream",
        "raw_path": b"/stream",
        "query_string": b"text=hello", "root_path": "", "headers": [], "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2), "subprotocols": [], "state": {},
    }  # fmt: skip
    await app(scope, receive, send)


def speak(count: int) -> None:
    for _ in range(count):
        asyncio.run(ask())


speak(1)
child = os.fork()
speak(2)
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
