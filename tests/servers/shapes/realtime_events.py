"""Audio as base64 in JSON events: server-sent (POST /v1/vibevoice/generate), and over a WebSocket (/v1/realtime) that
says first what to speak.
"""

import asyncio
import base64
import json

from fastapi import FastAPI, WebSocket
from pydantic import BaseModel
from shapes.speaking import Speaker, Work, admit, pcm16, streamed
from starlette.websockets import WebSocketDisconnect

app = FastAPI()
speaker = Speaker()


class Wish(BaseModel):
    text: str
    voice: str = "en-Carter_man"


async def chunks(text, voice):
    """PCM from a thread, read without blocking the event loop."""
    work = Work(speaker, text, voice)
    stream = iter(work.streamer.get_stream(0))
    try:
        while (chunk := await asyncio.to_thread(next, stream, None)) is not None:
            yield pcm16(chunk)
    finally:
        work.stop()
    work.check()


async def events(wish):
    yield b'data: {"type": "speech.started"}\n\n'
    async for part in chunks(wish.text, wish.voice):
        yield b"data: " + json.dumps({"audio_chunk": base64.b64encode(part).decode()}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


@app.post("/v1/vibevoice/generate")
async def generate(wish: Wish):
    admit(wish.voice)
    return streamed(events(wish), "text/event-stream", wish.voice)


@app.websocket("/v1/realtime")
async def realtime(socket: WebSocket):
    await socket.accept()
    await socket.send_json({"type": "session.created"})
    wish = json.loads(await socket.receive_text())
    if wish["voice"].startswith("refuse-"):
        await socket.close(int(wish["voice"].removeprefix("refuse-")))
        return
    await socket.send_json({"type": "response.output_audio_transcript.delta", "delta": wish["text"]})
    try:
        async for part in chunks(wish["text"], wish["voice"]):
            await socket.send_json({"type": "response.output_audio.delta", "delta": base64.b64encode(part).decode()})
    except WebSocketDisconnect:
        return
    await socket.send_json({"type": "response.done"})
    await socket.close()
