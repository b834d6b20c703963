"""Flask, under waitress or werkzeug's own threaded server: streamed from a plain thread, collected in the view, by form
and by URL.

    python -m shapes.flask_speech waitress | werkzeug
"""

import io
import sys

import torch
from flask import Flask, Response, abort, request, send_file
from shapes.speaking import Speaker, Work, pcm16, wav_header

app = Flask(__name__)
speaker = Speaker()


def chunks(text, voice):
    """PCM as a thread makes it."""
    yield from Work(speaker, text, voice).parts()


def wav(text, voice):
    yield wav_header()
    yield from chunks(text, voice)


class Sink:
    """Gathers what the model gives, in the view itself."""

    def __init__(self):
        self.parts = []

    def put(self, parts, _indices):
        self.parts.append(parts[0].detach().reshape(-1))

    def end(self, _indices=None):
        pass


@app.post("/v1/audio/speech")
def speech():
    wish = request.get_json()
    voice = wish.get("voice", "en-Carter_man")
    if voice == "nobody":
        abort(404)
    if voice == "crowd":
        abort(429)
    if voice == "boom":
        raise ValueError(wish["input"])
    return Response(wav(wish["input"], voice), mimetype="audio/wav")


@app.post("/collected")
def collected():
    """A form, and a file for an answer."""
    sink, prompt = Sink(), speaker.voice(request.form["voice"])
    speaker.generate(speaker.inputs(request.form["text"], prompt), prompt, sink)
    return send_file(io.BytesIO(wav_header() + pcm16(torch.cat(sink.parts))), mimetype="audio/wav")


@app.get("/speak/<voice>")
def speak(voice):
    """The text in the URL."""
    return Response(chunks(request.args["text"], voice), mimetype="audio/pcm;rate=24000")


@app.get("/file")
def file():
    return send_file(io.BytesIO(b"no speech"), mimetype="text/plain")


def main(kind):
    if kind == "waitress":
        from waitress import create_server

        server = create_server(app, host="127.0.0.1", port=0, threads=24)
        port, run = server.effective_port, server.run
    else:
        from werkzeug.serving import make_server

        server = make_server("127.0.0.1", 0, app, threaded=True)
        port, run = server.port, server.serve_forever
    print(f"Serving on http://127.0.0.1:{port}", flush=True)
    run()


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO)
    main(sys.argv[1])
