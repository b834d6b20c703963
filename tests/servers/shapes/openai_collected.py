"""POST /v1/audio/speech, collected: in a thread of asyncio's, in an executor's, or on the event loop itself. No
AudioStreamer.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import torch
from fastapi import FastAPI, Response
from pydantic import BaseModel
from shapes.speaking import Speaker, admit, pcm16, wav_header

app = FastAPI()
speaker = Speaker()
pool = ThreadPoolExecutor(2)


class Sink:
    """Gathers what the model gives, on whatever thread."""

    def __init__(self):
        self.parts = []

    def put(self, chunks, _indices):
        self.parts.append(chunks[0].detach().cpu())

    def end(self, _indices=None):
        pass


class Wish(BaseModel):
    input: str
    voice: str = "en-Carter_man"
    where: str = "to_thread"


def speak(wish):
    prompt = speaker.voice(wish.voice)
    return collect(speaker.inputs(wish.input, prompt), prompt)


def collect(inputs, prompt):
    sink = Sink()
    speaker.generate(inputs, prompt, sink)
    return wav_header() + pcm16(torch.cat([part.reshape(-1) for part in sink.parts]))


@app.post("/v1/audio/speech")
async def speech(wish: Wish):
    admit(wish.voice)
    if wish.where == "to_thread":
        audio = await asyncio.to_thread(speak, wish)
    elif wish.where == "executor":  # generates there what was prepared here
        prompt = speaker.voice(wish.voice)
        inputs = speaker.inputs(wish.input, prompt)
        audio = await asyncio.get_running_loop().run_in_executor(pool, collect, inputs, prompt)
    elif wish.where == "all_in_executor":  # nothing that the request made reaches the model
        audio = await asyncio.get_running_loop().run_in_executor(pool, speak, wish)
    else:
        audio = speak(wish)
    return Response(audio, media_type="audio/wav")
