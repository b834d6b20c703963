"""How a service starts, whatever its module is called: its class is hooked before its first load, and a load is told as
it was.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.talker import StreamingTTSService, talking
from tests.upstream.client import ask
from tests.upstream.server import serve
from tests.upstream.sink import Sink
from tests.upstream.trees import BROKEN, VOICES, Tree, make_double
from vibevoice_otel import semconv
from vibevoice_otel.adapters import upstream
from vibevoice_otel.adapters.shared.service import hook_service
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor

WHOLE = "self.model = VibeVoiceStreamingForConditionalGenerationInference.from_pretrained("
#: A module that defines the service, or that only takes in the one that does: what is run, and what of the double's is
#: replaced in it.
MODULES = {
    "demo.web.app": {},
    "speech_server": {},
    "a_class_by_another_name": {"StreamingTTSService": "Speaker"},
    "loaded_in_the_lifespan_of_another": None,
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    made = make_double(tmp_path_factory.mktemp("double"))
    web = made.path / "demo" / "web"
    source = (web / "app.py").read_text().replace("BASE = Path(__file__).parent", f"BASE = Path({str(web)!r})")
    for name, replaced in MODULES.items():
        if replaced is None:
            (made.path / f"{name}.py").write_text(OUTER)
        elif "." not in name:
            (made.path / f"{name}.py").write_text(_replaced(source, replaced))
    return made


OUTER = """
import contextlib
from fastapi import FastAPI
from speech_server import app as speech

@contextlib.asynccontextmanager
async def lifespan(_):
    async with speech.router.lifespan_context(speech):
        yield

app = FastAPI(lifespan=lifespan)
app.mount("/tts", speech)
"""


def _replaced(source: str, replaced: dict[str, str]) -> str:
    for old, new in replaced.items():
        assert old in source
        source = source.replace(old, new)
    return source


@pytest.mark.parametrize("module", MODULES)
def test_the_first_failure_is_an_increase(module: str, tree: Tree, tmp_path: Path) -> None:
    """Under ``uvicorn module:app`` every voice's series stand at zero once the service has loaded; one load was told,
    and the first request of all, which fails, takes a series from 0 to 1.
    """
    command = (sys.executable, "-m", "uvicorn", f"{module}:app", "--host", "127.0.0.1", "--port", "0")
    with Sink() as sink, serve(tree, sink, tmp_path, command=command) as server:

        def requests(status: str) -> dict[str, float]:
            points = sink.metric(semconv.REQUESTS.name)
            return {p.attributes["voice"]: p.value for p in points if p.attributes["status"] == status}

        def loads() -> list[Any]:
            return [span for span in sink.spans() if span.name == semconv.MODEL_LOAD.name]

        sink.wait(lambda: set(VOICES) | {BROKEN} <= set(requests("error")))
        assert set(requests("error").values()) == {0}
        sink.wait(loads)
        (load,) = loads()
        assert load.attributes["vibevoice.cache"] == "miss"
        assert "vibevoice.load.attempts" not in load.attributes
        if module != "loaded_in_the_lifespan_of_another":
            ask(server.port, text="hello", voice=BROKEN)
            sink.wait(lambda: requests("error")[BROKEN] == 1)


class Model:
    """from_pretrained as transformers has it: what is asked of it may be missing."""

    @classmethod
    def from_pretrained(cls, path: str, attention: str = "sdpa") -> Model:
        if attention != "sdpa":
            raise ImportError(f"no {attention} here")
        if path == "nowhere":
            raise OSError("nothing there")
        return cls()


#: What the service's load does, and what is told of it: error.type, attempts, the attempts' errors; None where the load
#: fails.
LOADS: dict[str, tuple[list[tuple[str, str]], str | None, int | None, str | None]] = {
    "once": ([("here", "sdpa")], None, None, None),
    "flash attention, then SDPA": ([("here", "flash"), ("here", "sdpa")], None, 2, "ImportError"),
    "flash attention, xformers, then SDPA": (
        [("here", "flash"), ("here", "xformers"), ("here", "sdpa")], None, 3, "ImportError",
    ),
    "flash attention, a wrong path, then the right one": (
        [("here", "flash"), ("nowhere", "sdpa"), ("here", "sdpa")], None, 3, "ImportError,OSError",
    ),
    "flash attention alone": ([("here", "flash")], "ImportError", None, None),
    "flash attention, then a wrong path": (
        [("here", "flash"), ("nowhere", "sdpa")], "OSError", 2, "ImportError,OSError",
    ),
    "two models": ([("here", "sdpa"), ("here", "sdpa")], None, 2, None),
}  # fmt: skip


@pytest.fixture
def hooked() -> Iterator[Any]:
    """The model's loader hooked as upstream's is, beside the service."""
    with talking() as told:
        recorder = VibeVoiceInstrumentor().recorder
        assert recorder is not None
        hooks = Hooks("upstream", recorder.on_drop)
        hooks.replace(Model, "from_pretrained", functools.partial(upstream._from_pretrained, hooks, recorder), "")
        yield told
        hooks.undo()


@pytest.mark.parametrize("name", LOADS)
def test_a_load_that_is_tried_again_is_one_load(name: str, hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It succeeds or fails as the service's load does, its attempts stand on it, and the histogram counts it once."""
    attempts, error, count, errors = LOADS[name]

    class Service(StreamingTTSService):
        model: Any = None
        model_path = "here"

        def load(self) -> None:
            for index, (path, attention) in enumerate(attempts):
                try:
                    self.model = Model.from_pretrained(path, attention)
                except Exception:
                    if index == len(attempts) - 1:
                        raise
                time.sleep(0.002)

    recorder = VibeVoiceInstrumentor().recorder
    assert recorder is not None
    hooks = Hooks("upstream", recorder.on_drop)
    hook_service(hooks, recorder, Service)
    raises = {"ImportError": pytest.raises(ImportError), "OSError": pytest.raises(OSError)}
    with raises[error] if error is not None else contextlib.nullcontext():
        Service().load()
    (load,) = hooked.attributes(semconv.MODEL_LOAD.name)
    assert load.get("error.type") == error
    assert load.get("load.attempts") == count
    assert load.get("load.attempt_errors") == errors
    assert hooked.counted(semconv.MODEL_LOAD_DURATION.name, "cache") == {"miss": 1}
    (span,) = hooked.finished(semconv.MODEL_LOAD.name)
    assert ((span.end_time or 0) - (span.start_time or 0)) / 1e6 >= 2 * (len(attempts) - 1), "the whole of it"
    hooks.undo()


def test_a_load_without_a_service_is_a_load_of_its_own(hooked: Any) -> None:
    """A script that calls from_pretrained itself: each call is told as it ended."""
    with pytest.raises(ImportError):
        Model.from_pretrained("here", "flash")
    Model.from_pretrained("here")
    assert [load.get("error.type") for load in hooked.attributes(semconv.MODEL_LOAD.name)] == ["ImportError", None]
