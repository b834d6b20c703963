"""The web process and the process that has the model are two: a request is told once, by the one that knows what it
was.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.upstream.client import ask
from tests.upstream.server import serve
from tests.upstream.sink import Sink
from tests.upstream.trees import Tree, make_double
from vibevoice_otel import semconv

#: ``start()`` returns what has ``send`` and ``recv``, however the other process was started.
WEB = """
import asyncio, contextlib
from fastapi import FastAPI, WebSocket
from speaking import start

@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.pipe = start()
    assert await asyncio.to_thread(app.state.pipe.recv) == "ready"
    yield
    app.state.pipe.send(None)

app = FastAPI(lifespan=lifespan)

@app.websocket("/stream")
async def stream(ws: WebSocket):
    await ws.accept()
    app.state.pipe.send({"text": ws.query_params.get("text", ""), "voice": ws.query_params.get("voice")})
    while (chunk := await asyncio.to_thread(app.state.pipe.recv)) is not None:
        await ws.send_bytes(chunk)
    await ws.close()
"""
SPEAKING = """
import os, subprocess, sys

def speak(connection):
    from demo.web.app import StreamingTTSService

    service = StreamingTTSService(model_path=os.environ["MODEL_PATH"], device="cpu")
    service.load()
    connection.send("ready")
    while (wanted := connection.recv()) is not None:
        for chunk in service.stream(wanted["text"], voice_key=wanted["voice"], log_callback=lambda *_, **__: None):
            connection.send(service.chunk_to_pcm16(chunk))
        connection.send(None)

def start():
    how = os.environ["SPLIT"]
    if how == "subprocess":
        from multiprocessing.connection import Listener

        listener = Listener()
        modules = "import sys; from multiprocessing.connection import Client; from speaking import speak"
        program = f"{modules}; speak(Client(sys.argv[1]))"
        subprocess.Popen([sys.executable, "-c", program, listener.address])
        return listener.accept()
    import multiprocessing

    context = multiprocessing.get_context(how)
    near, far = context.Pipe()
    context.Process(target=speak, args=(far,)).start()
    return near
"""
REQUESTS = 4


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    made = make_double(tmp_path_factory.mktemp("split"))
    (made.path / "web.py").write_text(WEB)
    (made.path / "speaking.py").write_text(SPEAKING)
    return made


@pytest.mark.parametrize("how", ["spawn", "forkserver", "fork", "subprocess"])
def test_a_request_is_told_once(how: str, tree: Tree, tmp_path: Path) -> None:
    """Four listeners: four requests, with the voice that spoke and its settings, four synthesize spans, and nothing
    told of another.
    """
    command = (sys.executable, "-m", "uvicorn", "web:app", "--host", "127.0.0.1", "--port", "0")
    with Sink() as sink, serve(tree, sink, tmp_path, command=command, environment={"SPLIT": how}) as server:
        heard = [ask(server.port, text="hello", voice="en-Emma_woman") for _ in range(REQUESTS)]
        assert all(each.chunks for each in heard), server.log

        def told() -> dict[tuple[str, str, str], float]:
            points = sink.metric(semconv.REQUESTS.name)
            keys = ("voice", "status", "cfg")
            return {tuple(p.attributes[key] for key in keys): p.value for p in points if p.value}  # type: ignore[misc]

        sink.wait(lambda: sum(told().values()) >= REQUESTS)
        sink.wait(lambda: sum(span.name == semconv.SYNTHESIZE.name for span in sink.spans()) >= REQUESTS)
        assert told() == {("en-Emma_woman", "success", "1.5"): REQUESTS}
        assert sum(span.name == semconv.SYNTHESIZE.name for span in sink.spans()) == REQUESTS
