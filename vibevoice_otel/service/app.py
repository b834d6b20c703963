"""The WebSocket interface of the upstream realtime server, in FastAPI.

GET /config, GET /healthz, and WebSocket /stream?text=&voice=&cfg=&steps= which answers with binary PCM16 chunks (24 kHz, mono,
little-endian) and JSON log messages. Unlike upstream, waiting requests queue, a listener who leaves is noticed at once, and a failure
closes 1011 instead of 1000.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from fastapi import FastAPI, WebSocket
from starlette.websockets import WebSocketDisconnect

from vibevoice_otel.service.engine import RANDOM_NOTICE, StreamingTTSService
from vibevoice_otel.service.settings import ServiceSettings

logger = logging.getLogger(__name__)
BUSY, TOO_BIG, FAILED = 1013, 1009, 1011


class Slots:
    """At most ``concurrency`` requests work, at most ``queue`` wait."""

    def __init__(self, concurrency: int, queue: int) -> None:
        self._free = asyncio.Semaphore(concurrency)
        self._concurrency, self._queue = concurrency, queue
        self.present = 0  # at work or waiting

    @property
    def full(self) -> bool:
        return self.present >= self._concurrency + self._queue

    @contextlib.asynccontextmanager
    async def turn(self, deadline: float, delay: float) -> Any:
        """Wait for a turn; TimeoutError at ``deadline`` (time.monotonic())."""
        self.present += 1
        try:
            await asyncio.wait_for(self._free.acquire(), max(0.0, deadline - time.monotonic()))
            try:
                if delay:
                    await asyncio.sleep(delay)
                yield
            finally:
                self._free.release()
        except asyncio.TimeoutError:
            raise TimeoutError("no turn within the request's time") from None
        finally:
            self.present -= 1


class Session:
    """One listener's WebSocket."""

    def __init__(self, socket: WebSocket, service: StreamingTTSService) -> None:
        self._socket = socket
        self._service = service
        self._entries: list[tuple[str, dict[str, Any]]] = []
        self.stop = threading.Event()
        self.left = asyncio.Event()

    def log(self, event: str, **data: Any) -> None:
        """Queue a log message for the listener; from any thread (list.append is atomic)."""
        self._entries.append((event, data))

    async def flush(self) -> None:
        while self._entries:
            event, data = self._entries.pop(0)
            stamp = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
            await self._socket.send_text(json.dumps({"type": "log", "event": event, "data": data, "timestamp": stamp}))

    async def watch(self) -> None:
        """Notice a listener who leaves, whatever the service is doing."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while (await self._socket.receive())["type"] != "websocket.disconnect":
                pass
        self.stop.set()
        self.left.set()

    async def close(self, code: int, reason: str = "") -> None:
        with contextlib.suppress(Exception):
            await self.flush()
        with contextlib.suppress(Exception):
            await self._socket.close(code, reason)


def create_app(settings: ServiceSettings | None = None) -> FastAPI:
    """The application. The model is loaded by the first request."""
    chosen = settings or ServiceSettings.load()
    service = StreamingTTSService(chosen)
    app = FastAPI(title="VibeVoice streaming service", openapi_url=None)
    app.state.tts_service = service
    slots = Slots(chosen.concurrency, chosen.queue)

    @app.get("/")
    def about() -> dict[str, Any]:
        return {"service": "VibeVoice streaming text to speech", "websocket": "/stream?text=&voice=&cfg=&steps=", "config": "/config"}

    @app.get("/config")
    def config() -> dict[str, Any]:
        return {
            "voices": sorted(service.voice_presets), "default_voice": service.default_voice_key, "cfg": chosen.cfg, "steps": chosen.steps,
            "model": service.model_path, "notice": RANDOM_NOTICE if service.is_random else None,
        }  # fmt: skip

    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        return {"ok": True, "model_loaded": service.model is not None}

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await serve(socket, service, slots, chosen)

    return app


async def serve(socket: WebSocket, service: StreamingTTSService, slots: Slots, settings: ServiceSettings) -> None:
    """One request, from acceptance to close."""
    await socket.accept()
    session = Session(socket, service)
    query = socket.query_params
    text, voice = query.get("text", ""), query.get("voice")
    cfg = _number(query.get("cfg"), settings.cfg, "cfg", session, valid=lambda v: math.isfinite(v) and 0 < v <= 10)
    steps = int(_number(query.get("steps"), settings.steps, "steps", session, valid=lambda v: v == int(v) and 1 <= v <= 100))
    if voice and voice not in service.voice_presets:
        session.log("voice_replaced", used=service.default_voice_key)
    if slots.full:
        session.log("backend_busy", message="Please wait for the other requests to complete.")
        await session.close(BUSY, "Service busy")
        return
    if len(text) > settings.max_text:
        session.log("backend_error", message=f"The text is longer than {settings.max_text} characters.")
        await session.close(TOO_BIG, "Text too long")
        return
    session.log("backend_request_received", text_length=len(text), cfg_scale=cfg, inference_steps=steps, voice=voice)
    deadline = time.monotonic() + settings.timeout
    watcher = asyncio.create_task(session.watch())
    code = 1000
    try:
        await session.flush()
        async with slots.turn(deadline, settings.faults.queue_delay):
            if not session.stop.is_set():
                chunks = service.stream(
                    text,
                    cfg_scale=cfg,
                    inference_steps=steps,
                    voice_key=voice,
                    log_callback=session.log,
                    stop_event=session.stop,
                    deadline=deadline,
                )
                await _send(socket, session, service, chunks)
    except WebSocketDisconnect:
        session.stop.set()
    except TimeoutError as error:
        code = FAILED
        logger.warning("a request timed out after %g s", settings.timeout)
        session.log("backend_error", message=str(error))
    except Exception as error:
        code = FAILED
        logger.exception("a request failed")
        session.log("generation_error", message=f"{type(error).__name__}")
    finally:
        watcher.cancel()
        if not session.left.is_set():
            session.log("backend_stream_complete")
            await session.close(code)


async def _send(socket: WebSocket, session: Session, service: StreamingTTSService, chunks: Iterator[Any]) -> None:
    end: Any = object()
    first = True
    try:
        while not session.left.is_set():
            chunk = await asyncio.to_thread(next, chunks, end)
            if chunk is end or session.left.is_set():
                return
            await socket.send_bytes(service.chunk_to_pcm16(chunk))
            if first:
                session.log("backend_first_chunk_sent")
                first = False
            await session.flush()
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            await asyncio.to_thread(close)  # joins the generation thread, so never on the event loop


def _number(text: str | None, default: float, name: str, session: Session, *, valid: Any) -> float:
    """The parameter's value, or the default and a log message when it is not valid."""
    if text is None:
        return default
    with contextlib.suppress(ValueError, OverflowError):
        value = float(text)
        if valid(value):
            return value
    session.log("parameter_replaced", parameter=name, used=default)
    return default
