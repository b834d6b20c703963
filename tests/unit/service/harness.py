"""A real uvicorn server on a free loopback port, and a real WebSocket client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import numpy as np
import uvicorn
import websockets

from vibevoice_otel.service.app import create_app
from vibevoice_otel.service.engine import StreamingTTSService
from vibevoice_otel.service.faults import Faults
from vibevoice_otel.service.settings import ServiceSettings

TEXT = "The train leaves at nine."


@dataclass
class Answer:
    """What a listener got."""

    chunks: list[bytes] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)
    code: int | None = None
    first_audio: float | None = None

    @property
    def events(self) -> list[str]:
        return [log["event"] for log in self.logs]

    @property
    def samples(self) -> np.ndarray:
        return np.frombuffer(b"".join(self.chunks), dtype="<i2")

    def data(self, event: str) -> dict[str, Any]:
        return next(log["data"] for log in self.logs if log["event"] == event)


class Running:
    """A service under uvicorn in a thread of its own."""

    def __init__(self, **settings: Any) -> None:
        faults = Faults(**settings.pop("faults", {}))
        self.app = create_app(ServiceSettings(faults=faults, **settings))
        self.service: StreamingTTSService = self.app.state.tts_service
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(self.app, log_config=None, timeout_graceful_shutdown=5))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="uvicorn")

    def __enter__(self) -> Running:  # noqa: PYI034 - Self needs Python 3.11
        self.service.load()
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "uvicorn did not start"
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._socket.close()
        assert not self._thread.is_alive(), "uvicorn did not stop"

    def url(self, text: str = TEXT, **parameters: Any) -> str:
        return f"ws://127.0.0.1:{self.port}/stream?{urlencode({'text': text, **parameters})}"

    async def ask(self, text: str = TEXT, **parameters: Any) -> Answer:
        """Listen until the service closes."""
        answer, started = Answer(), time.perf_counter()
        async with websockets.connect(self.url(text, **parameters)) as connection:
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    message = await asyncio.wait_for(connection.recv(), 30)
                    if isinstance(message, bytes):
                        answer.first_audio = answer.first_audio or time.perf_counter() - started
                        answer.chunks.append(message)
                    else:
                        answer.logs.append(json.loads(message))
            answer.code = connection.close_code
        return answer


def generations() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "vibevoice-generation"]


def wait_until(condition: Any, seconds: float, what: str) -> float:
    """Seconds that it took; fails when it did not come."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.002)
    return time.monotonic() - started


def running(**settings: Any) -> Iterator[Running]:
    """For fixtures."""
    with Running(**settings) as service:
        yield service
