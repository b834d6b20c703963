"""POST /v1/audio/speech, streamed: a plain thread generates into an AudioStreamer, the answer reads it as WAV, PCM or
events.
"""

import asyncio
import base64
import json
import threading

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from shapes.speaking import Speaker, pcm16, wav_header
from vibevoice.modular.streamer import AudioStreamer

app = FastAPI()
speaker = Speaker()
one_at_a_time = threading.Lock()
busy = asyncio.Semaphore(64)


class Wish(BaseModel):
    input: str
    voice: str = "en-Carter_man"
    response_format: str = "wav"


def chunks(wish):
    """A generator of PCM, as a service's ``stream_speech_pcm``."""
    prompt = speaker.voice(wish.voice)
    inputs = speaker.inputs(wish.input, prompt)
    streamer = AudioStreamer(batch_size=1, stop_signal=None, timeout=None)
    failures, stop = [], threading.Event()

    def work():
        try:
            with one_at_a_time:
                speaker.generate(inputs, prompt, streamer, stop.is_set)
        except Exception as failure:
            failures.append(failure)
            streamer.end()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for chunk in streamer.get_stream(0):
            yield pcm16(chunk)
    finally:
        stop.set()
        thread.join()
        if failures:
            raise failures[0]


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
    if wish.voice == "nobody":
        raise HTTPException(404, "no such voice")
    if wish.voice == "crowd":
        raise HTTPException(429, "too many")
    parts = chunks(wish)
    if wish.response_format == "sse":
        return StreamingResponse(events(parts), media_type="text/event-stream")
    if wish.response_format == "pcm":
        return StreamingResponse(parts, media_type="audio/pcm;rate=24000")
    return StreamingResponse(with_header(parts), media_type="audio/wav")


@app.get("/health")
def health():
    return {"status": "ok"}
