"""POST /v1/audio/speech, streamed: a plain thread generates into an AudioStreamer, the answer reads it as WAV, PCM or
events.
"""

import base64
import json
import threading

from fastapi import FastAPI
from pydantic import BaseModel
from shapes.speaking import Speaker, admit, pcm16, streamed, wav_header
from vibevoice.modular.streamer import AudioStreamer

app = FastAPI()
speaker = Speaker()


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
