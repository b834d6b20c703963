"""The WebSocket interface of the upstream realtime server, in FastAPI.

GET /config, /healthz (the process answers) and /readyz (new streams may come), and WebSocket
/stream?text=&voice=&cfg=&steps= which answers with binary PCM16 chunks (24 kHz, mono, little-endian) and JSON log
messages. Unlike upstream, waiting requests queue, a listener who leaves is noticed at once, and a failure closes 1011
instead of 1000.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import traceback
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response, WebSocket
from starlette.websockets import WebSocketDisconnect

from vibevoice_otel.service.auto import AUTO, chooser
from vibevoice_otel.service.drain import Drain
from vibevoice_otel.service.engine import StreamingTTSService
from vibevoice_otel.service.gauges import publish
from vibevoice_otel.service.session import Session
from vibevoice_otel.service.settings import ServiceSettings
from vibevoice_otel.service.slots import Slots

if TYPE_CHECKING:
    from vibevoice_otel.insight import Policy

logger = logging.getLogger(__name__)
DONE, BUSY, TOO_BIG, FAILED = 1000, 1013, 1009, 1011
MAX_CFG, MAX_STEPS = 10.0, 100


def create_app(settings: ServiceSettings | None = None) -> FastAPI:
    """The application, for one event loop. The model is loaded by the first request."""
    chosen = settings or ServiceSettings.load()
    service = StreamingTTSService(chosen)
    slots, drain = Slots(chosen.concurrency, chosen.queue), Drain()
    publish(slots)
    auto = chooser(chosen.auto_parameters, chosen.auto_prefer, (chosen.steps, chosen.cfg), chosen.auto_control)
    _keep_text_out_of_access_logs()
    _admit_long_urls(chosen.max_text)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # A request at work holds a worker thread while it waits for audio; asyncio's own pool may have fewer threads
        # than there are slots. The loop shuts the pool down as it closes.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(chosen.concurrency + 4, "vibevoice-worker"))
        if auto is not None:
            auto.start()
        yield
        if auto is not None:
            await asyncio.to_thread(auto.stop)

    app = FastAPI(title="VibeVoice streaming service", openapi_url=None, lifespan=lifespan)
    app.state.tts_service, app.state.drain = service, drain

    @app.get("/")
    async def about() -> dict[str, Any]:
        return {
            "service": "VibeVoice streaming text to speech",
            "websocket": "/stream?text=&voice=&cfg=&steps=",
            "config": "/config",
            "notice": service.notice,
        }

    @app.get("/config")
    async def config() -> dict[str, Any]:
        return {
            "voices": sorted(service.voice_presets), "default_voice": service.default_voice_key, "cfg": chosen.cfg,
            "steps": chosen.steps, "max_text": chosen.max_text, "model": service.model_path, "notice": service.notice,
        }  # fmt: skip

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"ok": True, "model_loaded": service.model is not None}

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, Any]:
        response.status_code = 503 if drain.begun else 200
        return {"ready": not drain.begun, "open": drain.open}

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        if drain.begun:
            await socket.accept()
            await socket.close(BUSY, "Service is shutting down")
            return
        with drain.stream():
            await _serve(socket, service, slots, chosen, auto)

    return app


async def _serve(
    socket: WebSocket, service: StreamingTTSService, slots: Slots, settings: ServiceSettings, auto: Policy | None
) -> None:
    """One request, from acceptance to close."""
    await socket.accept()
    deadline = time.monotonic() + settings.timeout
    session = Session(socket, deadline)
    text = socket.query_params.get("text", "")
    if len(text) > settings.max_text:
        session.log("backend_error", message=f"The text is longer than {settings.max_text} characters.")
        await session.close(TOO_BIG, "Text too long")
        return
    turn = slots.enter()
    if turn is None:
        session.log("backend_busy", message="Please wait for the other requests to complete.")
        await session.close(BUSY, "Service busy")
        return
    watcher = asyncio.create_task(session.watch())
    code = FAILED
    try:
        asked = _asked(socket, session, service, settings, auto)
        session.log("backend_request_received", text_length=len(text), **asked)
        await session.flush()
        await asyncio.wait({turn, watcher}, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        if not session.left.is_set():
            if not turn.done():
                raise TimeoutError("no turn came within the request's time")
            await asyncio.sleep(settings.faults.queue_delay)
            chunks = service.stream(
                text,
                cfg_scale=asked["cfg_scale"],
                inference_steps=asked["inference_steps"],
                voice_key=asked["voice"],
                log_callback=session.log,
                stop_event=session.stop,
                deadline=deadline,
            )
            await _send(session, service, chunks)
        code = DONE
    except WebSocketDisconnect:
        session.left.set()
    except TimeoutError as error:
        logger.warning("a request timed out after %g s", settings.timeout)
        session.log("backend_error", message=str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the listener is told and the service goes on
        if not session.left.is_set():
            # The type alone: an exception's message may quote the text, which is the listener's own.
            logger.error(  # noqa: TRY400
                "a request failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
            )
            session.log("backend_error", message=type(error).__name__)
    finally:
        session.stop.set()
        slots.leave(turn)
        if session.left.is_set():
            logger.info("client_disconnected")
        session.log("backend_stream_complete")
        if settings.summary:
            session.log("backend_summary", **session.summary())
        await session.close(code)
        watcher.cancel()
        await asyncio.wait({watcher})


async def _send(session: Session, service: StreamingTTSService, chunks: Generator[Any, None, None]) -> None:
    """Send the chunks as they come, until the end or until the listener leaves."""
    end: Any = object()
    try:
        while not session.left.is_set():
            await asyncio.sleep(service.settings.faults.reader_delay)
            chunk = await asyncio.to_thread(next, chunks, end)
            if chunk is end or session.left.is_set():
                return
            await session.send_audio(service.chunk_to_pcm16(chunk))
            await session.flush()
    finally:
        await asyncio.to_thread(chunks.close)  # joins the generation thread, so never on the event loop


def _asked(
    socket: WebSocket, session: Session, service: StreamingTTSService, settings: ServiceSettings, auto: Policy | None
) -> dict[str, Any]:
    """The request's parameters; what is not valid becomes the default, and the listener is told."""
    query = socket.query_params
    voice = query.get("voice")
    if voice and voice not in service.voice_presets:
        session.log("voice_replaced", asked=voice[:64], used=service.default_voice_key)
    cfg_text, steps_text = query.get("cfg"), query.get("steps")
    cfg_default, steps_default = settings.cfg, settings.steps
    if auto is not None and AUTO in {cfg_text, steps_text}:
        speaker = voice if voice in service.voice_presets else service.default_voice_key
        decision = auto.decide(speaker, len(query.get("text", "")))
        if cfg_text == AUTO:
            cfg_text, cfg_default = None, settings.cfg if decision.cfg is None else decision.cfg
        if steps_text == AUTO:
            steps_text, steps_default = None, settings.steps if decision.steps is None else decision.steps
    cfg = _number(cfg_text, cfg_default, "cfg", session, lambda value: 0 < value <= MAX_CFG)
    steps = _number(
        steps_text, steps_default, "steps", session, lambda value: value.is_integer() and 1 <= value <= MAX_STEPS
    )
    return {"cfg_scale": cfg, "inference_steps": int(steps), "voice": voice}


def _number(text: str | None, default: float, name: str, session: Session, valid: Callable[[float], bool]) -> float:
    if not text:
        return default
    with contextlib.suppress(ValueError):
        value = float(text)
        if math.isfinite(value) and valid(value):
            return value
    session.log("parameter_replaced", parameter=name, asked=text[:64], used=default)
    return default


def url_bytes(max_text: int) -> int:
    """How long a request line may be: twice what ``max_text`` characters need, so that a text that is too long is
    refused in words.

    A character has up to four bytes of UTF-8, each written with three in a URL.
    """
    return 2 * 12 * max_text + 65_536


def _admit_long_urls(max_text: int) -> None:
    """Raise the limit of websockets, 8192 bytes of a request line: the handshake of a longer one never ends.

    Its variable WEBSOCKETS_MAX_LINE_LENGTH is read as it is imported, which a server has done before it imports an
    application.
    """
    with contextlib.suppress(ImportError):
        from websockets import http11  # noqa: PLC0415 - another WebSocket library has no such limit

        http11.MAX_LINE_LENGTH = max(http11.MAX_LINE_LENGTH, url_bytes(max_text))


def _without_query(record: logging.LogRecord) -> bool:
    """A filter of log records: uvicorn logs a WebSocket's whole path, and with it the text."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            arg.split("?", 1)[0] if isinstance(arg, str) and arg.startswith("/") else arg for arg in record.args
        )
    return True


def _keep_text_out_of_access_logs() -> None:
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).addFilter(_without_query)  # adding the same one again changes nothing
