"""POST /v1/audio/speech, streamed: a plain thread generates into an AudioStreamer, the answer reads it as WAV, PCM or
events.
"""

import base64
import json

from fastapi import FastAPI
from pydantic import BaseModel
from shapes.speaking import Speaker, Work, admit, streamed, wav_header

app = FastAPI()
speaker = Speaker()


class Wish(BaseModel):
    input: str
    voice: str = "en-Carter_man"
    response_format: str = "wav"


def chunks(wish):
    """A generator of PCM, as a service's ``stream_speech_pcm``."""
    yield from Work(speaker, wish.input, wish.voice).parts()


def events(parts):
    for part in parts:
        yield (
            b"data: "
            + json.dumps({"type": "speech.audio.delta", "audio": base64.b64encode(part).decode()}).encode()
            + b"\n\n"
        )
    yield b'data: {"type": "speech.audio.done"}\n\n'


def with_header(parts):
    yield wav_header()
    yield from parts


@app.post("/v1/audio/speech")
def speech(wish: Wish):
    admit(wish.voice)
    parts = chunks(wish)
    if wish.response_format == "sse":
        return streamed(events(parts), "text/event-stream", wish.voice)
    if wish.response_format == "pcm":
        return streamed(parts, "audio/pcm;rate=24000", wish.voice)
    return streamed(with_header(parts), "audio/wav", wish.voice)


@app.get("/health")
def health():
    return {"status": "ok"}
