"""A witness inside the observed process: how often each function of the model ran, counted by the interpreter itself,
and when the server itself was given what to send.

``sys.setprofile`` sees every call of a Python function by its code object, wrapped or not, so the figures owe nothing
to the hooks under test. The server's test harness puts this file on the path with an ``opentelemetry_pre_instrument``
entry point; the counts are written to $UPSTREAM_COUNTS at each SIGUSR1 (by renaming, so that a reader never sees half a
file).
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CodeType, FrameType

# What is counted: the end of the file's name, and the function.
WITNESSED = {
    ("modeling_vibevoice_streaming_inference.py", "generate"),
    ("modeling_vibevoice_streaming_inference.py", "sample_speech_tokens"),
    ("modeling_vibevoice_streaming_inference.py", "forward_lm"),
    ("modeling_vibevoice_streaming_inference.py", "forward_tts_lm"),
    ("modeling_vibevoice_inference.py", "generate"),
    ("modeling_vibevoice_inference.py", "sample_speech_tokens"),
    ("modeling_vibevoice_inference.py", "forward"),
    ("modular_vibevoice_tokenizer.py", "encode"),
    ("dpm_solver.py", "set_timesteps"),
    ("dpm_solver.py", "step"),
    ("modular_vibevoice_tokenizer.py", "decode"),
    ("streamer.py", "put"),
    ("streamer.py", "end"),
    ("vibevoice_streaming_processor.py", "process_input_with_cached_prompt"),
    ("app.py", "_ensure_voice_cached"),
    ("app.py", "load"),
    ("app.py", "chunk_to_pcm16"),
    ("app.py", "_run_generation"),
}


class Witness:
    def __init__(self) -> None:
        # A generation may still run when the next one begins, on a thread of its own: next() is atomic, += is not.
        self.counts: dict[str, itertools.count[int]] = {name: itertools.count() for _, name in WITNESSED}
        self._names: dict[CodeType, str | None] = {}

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        try:
            name = self._names[code]
        except KeyError:
            file = os.path.basename(code.co_filename)  # noqa: PTH119 - called from anywhere, so as little as can be
            ours = "vibevoice_otel" in code.co_filename or (file, code.co_name) not in WITNESSED
            # generate and friends sit under torch.no_grad: its own wrapper has another name, so each call counts once.
            name = self._names[code] = None if ours else code.co_name
        if name is not None:
            next(self.counts[name])

    def calls(self) -> dict[str, int]:
        """How often each function has run; a count tells where it stands by its repr alone."""
        return {name: int(repr(count)[6:-1]) for name, count in self.counts.items()}

    def dump(self, *_: Any) -> None:
        path = os.environ["UPSTREAM_COUNTS"]
        with open(f"{path}.new", "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(self.calls(), file)
        os.replace(f"{path}.new", path)  # noqa: PTH105


def _stay_on_loopback() -> None:
    """Upstream's script listens on every address; a test must not."""
    import uvicorn

    run = uvicorn.run

    def on_loopback(app: Any, **settings: Any) -> None:
        run(app, **{**settings, "host": "127.0.0.1", "port": 0})

    uvicorn.run = on_loopback


class Sends:
    """The outermost application that uvicorn calls: notes when its ``send`` is entered, and with how much.

    A line in ``path`` each: the trace id that the caller sent, the monotonic clock's nanoseconds, bytes of the body or
    message.
    """

    def __init__(self, app: Any, path: str) -> None:
        self._app = app
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        trace = dict(scope.get("headers", ())).get(b"traceparent", b"-").split(b"-")[1].decode() or "-"

        async def noted(message: Any) -> None:
            at = time.perf_counter_ns()
            size = len(message.get("body") or message.get("bytes") or message.get("text") or "")
            os.write(self._file, f"{trace} {at} {size}\n".encode())
            await send(message)

        await self._app(scope, receive, noted)


def _note_sends(path: str) -> None:
    import uvicorn

    load = uvicorn.Config.load

    def loaded(config: Any) -> None:
        load(config)
        config.loaded_app = Sends(config.loaded_app, path)

    uvicorn.Config.load = loaded  # type: ignore[method-assign]


def install() -> None:
    if "UPSTREAM_LOOPBACK" in os.environ:
        _stay_on_loopback()
    if "UPSTREAM_SENDS" in os.environ:
        _note_sends(os.environ["UPSTREAM_SENDS"])
    if not os.environ.get("UPSTREAM_COUNTS"):
        return
    witness = Witness()
    signal.signal(signal.SIGUSR1, witness.dump)
    threading.setprofile(witness)
    sys.setprofile(witness)
