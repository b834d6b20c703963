"""A service of upstream's surface without a model: two chunks for a text, none for a blank one. Its class is hooked as
upstream's is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from starlette.websockets import WebSocket

from tests.support.signals import Signals, signals
from vibevoice_otel import routes
from vibevoice_otel.adapters.shared.service import hook_service
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.settings import Settings

NOTHING = object()
BYTES = 2 * 3200 * 2


class StreamingTTSService:
    inference_steps = 5

    def load(self) -> None: ...

    def _get_voice_resources(self, key: str | None) -> tuple[str, None]:
        return key or "en-Carter_man", None

    def _ensure_voice_cached(self, key: str) -> None: ...

    def _prepare_inputs(self, text: str) -> str:
        return text

    def _run_generation(self) -> None: ...

    def stream(
        self, text: str, cfg_scale: float = 1.5, inference_steps: int | None = None, voice_key: str | None = None
    ) -> Iterator[Any]:
        if not text.strip():
            return
        self._get_voice_resources(voice_key)
        self._prepare_inputs(text)
        for _ in range(2):
            yield np.full(3200, 0.5, np.float32)


async def speak(socket: WebSocket, text: str, **options: Any) -> None:
    """As upstream's endpoint does: the generator's body runs on a worker thread."""
    chunks = StreamingTTSService().stream(text, **options)
    while (chunk := await asyncio.to_thread(next, chunks, NOTHING)) is not NOTHING:
        await socket.send_bytes((chunk * 32767).astype(np.int16).tobytes())
    await socket.close()


async def talk(socket: WebSocket) -> None:
    """An endpoint that takes what to speak from the URL."""
    await socket.accept()
    await speak(socket, socket.query_params.get("text", ""))


@contextmanager
def talking(settings: Settings | None = None) -> Iterator[Signals]:
    """All signals, our instrumentor, and the service's class hooked; no route has spoken yet."""
    routes._learned.clear()
    with signals(observed=True, settings=settings) as told:
        recorder = VibeVoiceInstrumentor().recorder
        assert recorder is not None
        hooks = Hooks("upstream", recorder.on_drop)
        hook_service(hooks, recorder, StreamingTTSService)
        recorder.learn_voices(("en-Carter_man", "en-Emma_woman"), 1.5, 5)
        told.flush = recorder.flush
        try:
            yield told
        finally:
            hooks.undo()
            routes._learned.clear()
            logging.getLogger("vibevoice_otel").setLevel(logging.NOTSET)
