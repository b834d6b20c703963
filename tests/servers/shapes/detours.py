"""Upstream's server with ways around: a POST that asks the server's own WebSocket, a generation in a spawned process,
and an upload that is read slowly.
"""

import asyncio
import multiprocessing
import urllib.parse

import websockets
from demo.web import app as upstream
from fastapi import FastAPI, Request, Response
from opentelemetry import context, propagate
from pydantic import BaseModel
from shapes.speaking import Speaker, wav_header

app: FastAPI = upstream.app


class Wish(BaseModel):
    input: str
    voice: str = "en-Carter_man"


class Sink:
    """Gathers what the model gives."""

    def __init__(self):
        self.parts = []

    def put(self, chunks, _indices):
        self.parts.append((chunks[0].reshape(-1).numpy() * 32767).astype("int16").tobytes())

    def end(self, _indices=None):
        pass


@app.post("/by-socket")
async def by_socket(wish: Wish, request: Request):
    query = urllib.parse.urlencode({"text": wish.input, "voice": wish.voice})
    host, port = request.scope["server"]
    parts = []
    async with websockets.connect(f"ws://{host}:{port}/stream?{query}", max_size=None) as socket:
        async for message in socket:
            if isinstance(message, bytes):
                parts.append(message)
    return Response(wav_header() + b"".join(parts), media_type="audio/wav")


def generate_elsewhere(pipe, text, voice, carrier):
    """In a process of its own, within the caller's context."""
    token = context.attach(propagate.extract(carrier))
    speaker, sink = Speaker(), Sink()
    prompt = speaker.voice(voice)
    speaker.generate(speaker.inputs(text, prompt), prompt, sink)
    context.detach(token)
    pipe.send(b"".join(sink.parts))


@app.post("/spawned")
async def spawned(wish: Wish):
    carrier = {}
    propagate.inject(carrier)
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=generate_elsewhere, args=(there, wish.input, wish.voice, carrier))
    process.start()
    audio = await asyncio.to_thread(here.recv)
    await asyncio.to_thread(process.join)
    return Response(wav_header() + audio, media_type="audio/wav")


@app.post("/upload")
async def upload(request: Request):
    size = 0
    async for part in request.stream():
        size += len(part)
    return {"bytes": size}
