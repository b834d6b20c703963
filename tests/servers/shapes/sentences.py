"""Upstream's server with its own ``stream``: one generate for each sentence, 48 kHz;
and a POST that collects the same.
"""

import asyncio
import threading

import numpy as np
from demo.web import app as upstream
from fastapi import FastAPI, Response
from pydantic import BaseModel
from shapes.speaking import admit, wav_header


class StreamingTTSService(upstream.StreamingTTSService):
    def stream(self, text, **kwargs):
        for sentence in filter(None, (part.strip() for part in text.split("."))):
            for chunk in super().stream(sentence + ".", **kwargs):
                yield np.repeat(chunk, 2)  # 48 kHz


upstream.StreamingTTSService = StreamingTTSService
app: FastAPI = upstream.app
one_at_a_time = threading.Lock()


class Wish(BaseModel):
    input: str
    voice: str = "en-Carter_man"


@app.post("/v1/audio/speech")
async def speech(wish: Wish):
    admit(wish.voice)
    service = app.state.tts_service

    def collect():
        with one_at_a_time:
            chunks = service.stream(wish.input, voice_key=wish.voice, log_callback=lambda *_, **__: None)
            return b"".join(service.chunk_to_pcm16(chunk) for chunk in chunks)

    return Response(wav_header(48_000) + await asyncio.to_thread(collect), media_type="audio/wav")
