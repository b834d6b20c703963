"""POST /speak/{voice}, streamed: requests queue for one worker thread, which was there before any of them."""

import asyncio
import queue
import threading
import urllib.parse

from fastapi import FastAPI, Request
from shapes.speaking import Speaker, admit, pcm16, streamed
from vibevoice.modular.streamer import AudioStreamer

app = FastAPI()
speaker = Speaker()
jobs = queue.Queue()


def work():
    while True:
        inputs, prompt, streamer = jobs.get()
        try:
            speaker.generate(inputs, prompt, streamer)
        except Exception:
            streamer.end()


threading.Thread(target=work, daemon=True).start()


@app.post("/speak/{voice}")
async def speak(voice: str, request: Request):
    admit(voice)
    (text,) = urllib.parse.parse_qs((await request.body()).decode())["text"]
    prompt = speaker.voice(voice)
    inputs = speaker.inputs(text, prompt)
    streamer = AudioStreamer(batch_size=1, stop_signal=None, timeout=None)
    jobs.put((inputs, prompt, streamer))

    async def body():
        stream = iter(streamer.get_stream(0))
        while True:
            chunk = await asyncio.to_thread(next, stream, None)
            if chunk is None:
                return
            yield pcm16(chunk)

    return streamed(body(), "audio/L16;rate=24000;channels=1", voice)
