"""By whichever module name the server is loaded, and however it is started, a request is one whole trace."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from vibevoice_otel import semconv
from vibevoice_otel.commands.demo.whole import whole
from vibevoice_otel.semconv import Status

from .client import ask
from .server import UVICORN, serve
from .sink import ReceivedSpan, Sink
from .traces import Trace, assert_whole
from .trees import Tree

TEXT = "Good evening, this is a short text."
RENAMED = "speaker"  # a module name that nobody told the adapter


def command(way: str, tree: Tree) -> Sequence[str]:
    python = sys.executable
    if way == "script":  # loads the same file as web.app
        return (python, "demo/vibevoice_realtime_demo.py", "--model_path", str(tree.model), "--device", "cpu")
    if way == "reload":  # the application runs in a child of the process that the launcher started
        return (*UVICORN, "--reload", "--reload-dir", "demo/web")
    if way == "renamed":
        shutil.copy(tree.path / "demo" / "web" / "app.py", tree.path / "demo" / "web" / f"{RENAMED}.py")
        return tuple(part.replace("demo.web.app:app", f"demo.web.{RENAMED}:app") for part in UVICORN)
    raise AssertionError(way)


@pytest.mark.parametrize("way", ["script", "reload", "renamed"])
def test_every_way_to_start_the_server_is_observed(tree: Tree, way: str, tmp_path: Path) -> None:
    """demo/vibevoice_realtime_demo.py, --reload, and a copy of the server under a name of its own give the same whole
    trace.
    """
    environment = {"UPSTREAM_COUNTS": ""} if way == "reload" else {}
    with Sink() as sink, serve(tree, sink, tmp_path, command=command(way, tree), environment=environment) as server:
        heard = ask(server.port, text=TEXT, voice="en-Emma_woman", steps=4)
        sink.wait(lambda: whole(sink.spans(heard.trace_id)))
        trace = Trace(sink.spans(heard.trace_id))
        assert_whole(trace)
        assert trace.value(semconv.STATUS) == Status.SUCCESS
        assert trace.value(semconv.VOICE) == "en-Emma_woman"
        frames = trace.all(semconv.FRAME)
        assert len(frames) >= len(heard.chunks) > 0
        assert {each.attributes[semconv.FRAME_STEPS.key] for each in frames} == {4}
        for span in (
            semconv.QUEUE,
            semconv.MODEL_LOAD,
            semconv.VOICE_LOAD,
            semconv.PREPROCESS,
            semconv.GENERATE,
            semconv.FIRST_CHUNK,
        ):
            trace.one(span)

        def loads() -> list[ReceivedSpan]:
            return [
                each
                for each in sink.spans()
                if each.name == semconv.MODEL_LOAD.name and each.trace_id != heard.trace_id
            ]

        sink.wait(lambda: bool(loads()))
        assert [each.attributes[semconv.CACHE.key] for each in loads()] == ["miss"]
