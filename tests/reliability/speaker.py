"""A service that speaks over a WebSocket as upstream's does, without a model: chunks of PCM16 at a pace, on request a
failure.

``GET /stream`` (WebSocket) with text, chunks, pace (seconds between chunks), fail (raise with the text in the message);
POST /speak raises with its body in the message; GET /alive?kind=X counts the objects of a class of that name; GET
/wedge?seconds=N holds a worker thread. It knows nothing of telemetry.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time

from fastapi import FastAPI, Request, WebSocket

app = FastAPI()
CHUNK = b"\x01\x02" * 1600
wedges: list[float] = []  # one for each thread that hangs


@app.get("/healthz")
def healthz() -> dict[str, int]:
    return {"pid": os.getpid()}


@app.get("/alive")
def alive(kind: str) -> int:
    gc.collect()
    return sum(type(each).__name__ == kind for each in gc.get_objects())


@app.post("/speak")
async def speak(request: Request) -> None:
    raise ValueError(f"cannot say {(await request.body()).decode()}")


@app.get("/wedge")
async def wedge(seconds: float) -> None:
    """Hold a thread of the event loop's own pool, as a call that hangs on a device does."""

    def hang() -> None:
        wedges.append(seconds)
        time.sleep(seconds)

    await asyncio.to_thread(hang)


@app.get("/wedged")
async def wedged() -> int:
    return len(wedges)


@app.websocket("/stream")
async def stream(socket: WebSocket) -> None:
    asked = socket.query_params
    await socket.accept()
    if asked.get("fail"):
        try:
            raise LookupError(f"no phonemes for {asked.get('text')}")
        except LookupError as error:
            raise ValueError(f"cannot say {asked.get('text')}") from error
    for _ in range(int(asked.get("chunks", "3"))):
        await socket.send_bytes(CHUNK)
        await asyncio.sleep(float(asked.get("pace", "0.001")))
    await socket.close()
