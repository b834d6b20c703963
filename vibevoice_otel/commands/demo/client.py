"""A listener: one request over the WebSocket, and what was heard when."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from urllib.parse import urlencode


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of one request. Times are seconds since the request began;
    ``first_audio`` is None when nothing came.
    """

    voice: str
    text_length: int
    cfg: float
    steps: int
    first_audio: float | None
    seconds: float
    audio_bytes: int
    close_code: int
    error: str | None = None


async def listen(base: str, text: str, voice: str, cfg: float, steps: int, timeout: float = 120.0) -> Heard:
    """Speak ``text`` with ``voice``; ``base`` is ws://host:port. Never raises for what the service does: it is in the
    answer.
    """
    import websockets  # noqa: PLC0415 - belongs to the service extra

    query = urlencode({"text": text, "voice": voice, "cfg": cfg, "steps": steps})
    began = time.perf_counter()
    first, total, error = None, 0, None
    code = 1006
    try:
        async with websockets.connect(f"{base}/stream?{query}", max_size=None, open_timeout=timeout) as socket:
            async for message in socket:
                if isinstance(message, bytes):
                    first = first if first is not None else time.perf_counter() - began
                    total += len(message)
                else:
                    entry = json.loads(message)
                    if entry.get("event") in {"generation_error", "backend_error", "backend_busy"}:
                        error = str(entry["event"])
            code = socket.close_code or 1006
    except (OSError, TimeoutError, websockets.WebSocketException) as failure:
        error = type(failure).__name__
    return Heard(voice, len(text), cfg, steps, first, time.perf_counter() - began, total, code, error)
