"""Work for an instruction counter: ``python -m benchmarks.counted WHAT TIMES``. Imports no more than it needs: the
counter runs slowly.

Two runs with different TIMES and the same WHAT differ by the work alone, whatever the start-up took.
"""

from __future__ import annotations

import sys
from time import perf_counter_ns as now
from typing import Any


class Scheduler:
    def set_timesteps(self, steps: int) -> None: ...

    def step(self, model_output: object, timestep: object, sample: object) -> None: ...


def floor(times: int) -> None:
    """The reference: two clock reads and an append around a step."""
    step, column = Scheduler().step, list[int]()
    for index in range(times):
        started = now()
        step(None, index, None)
        column.append(now() - started)


def hook(times: int) -> None:
    """The step's hook inside a request."""
    from types import SimpleNamespace

    from vibevoice_otel.adapters.shared import diffusion
    from vibevoice_otel.recording.clock import Anchor
    from vibevoice_otel.recording.timeline import Timeline, bound

    hooks = SimpleNamespace(
        replace_hot=lambda owner, name, make, _part: setattr(owner, name, make(getattr(owner, name))),
        note=lambda *_: None,
    )
    diffusion.hook_scheduler(hooks, Scheduler)  # type: ignore[arg-type]
    with bound(Timeline(1, Anchor.take(), now())):
        step = Scheduler().step
        for index in range(times):
            step(None, index, None)


def encode(times: int) -> None:
    """A block of 80 steps to bytes."""
    import numpy as np

    from vibevoice_otel import semconv
    from vibevoice_otel.otlp.encode import Trace, of_block
    from vibevoice_otel.recording.records import Block

    at = np.arange(80) + 1_700_000_000_000_000_000
    ids = np.arange(1, 81, dtype=np.uint64)
    block = Block(semconv.STEP, at, at + 1, ids, ids, {semconv.STEP_INDEX.key: np.arange(80) % 5})
    trace = Trace(bytes(16), b"", 1)
    for _ in range(times):
        list(of_block(block, trace))


def frame(times: int) -> None:
    """All notes of a frame: its entry, steps, decode, passes, audio."""
    from benchmarks.replay import Model, deliver
    from vibevoice_otel.recording.clock import Anchor
    from vibevoice_otel.recording.timeline import Timeline, bound

    model, timeline = Model.observed(), Timeline(1, Anchor.take(), now())
    with bound(timeline):
        model.begin()
        for _ in range(times):
            model.frame()
            deliver(timeline, model)


def request(times: int) -> None:
    """A whole request of 2 seconds: its notes, and the background's records, histograms and bytes, on one thread."""
    from benchmarks.replay import Model, speak
    from benchmarks.stages import Held
    from benchmarks.telemetry import observed

    stack, model, held = observed(), Model.observed(), Held()
    recorder = stack.recorder
    recorder._ended = held  # type: ignore[assignment]
    recorder._ensure_thread = lambda: None  # type: ignore[method-assign]
    for _ in range(times):
        speak(recorder, model, 15)
        recorder._finish(held.timelines.pop())
    stack.reader.get_metrics_data()


def card(times: int) -> None:
    """Frames of a model whose card takes no time, eight streams by turns, each one's frames 2.4 s apart: their notes
    and marks, and all that the recorder's thread does meanwhile, at the pace at which it asks to, on one thread.
    """
    from itertools import pairwise

    from benchmarks.replay import Model, deliver, open_request
    from benchmarks.stages import Held
    from benchmarks.telemetry import observed
    from vibevoice_otel.recording.device.cuda import CudaDevice
    from vibevoice_otel.recording.device.notes import StreamNotes
    from vibevoice_otel.recording.timeline import bound

    stack, first = observed(), Model.observed()
    recorder = stack.recorder
    recorder._ended = Held()  # type: ignore[assignment]
    recorder._ensure_thread = lambda: None  # type: ignore[method-assign]
    device = CudaDevice(DryCard, 0)
    streams = []
    for _ in range(8):
        timeline, model = open_request(recorder, 10), first.another()
        run = timeline.runs[0]
        run.device = StreamNotes(run, device)
        model.begin()
        streams.append((timeline, model))
    at = look = drain = 0.0
    for index, (since, until) in enumerate(pairwise(step * 0.3 for step in range(times + 1))):
        timeline, model = streams[index % 8]
        with bound(timeline):
            model.frame(10)
            deliver(timeline, model)
        at = max(at, since)
        while min(look, drain) < until:
            at = max(at, min(look, drain))
            if drain <= at:
                recorder._drain_long_streams()
                drain = at + recorder.settings.drain_interval
            look = at + min(recorder._poll_devices(), 3600.0)


class DryCard:
    """torch, as far as a card is asked."""

    class cuda:  # noqa: N801 - torch's name
        """Has passed every event as soon as that is recorded."""

        class Event:
            """A mark in a stream."""

            def __init__(self, *, enable_timing: bool) -> None:
                self.at = 0
                del enable_timing

            def record(self, _stream: object) -> None:
                self.at = now()

            def query(self) -> bool:
                return True

            def elapsed_time(self, end: DryCard.cuda.Event) -> float:
                return (end.at - self.at) / 1e6

        @classmethod
        def current_stream(cls, _index: int) -> type[DryCard.cuda]:
            return cls

        @staticmethod
        def query() -> bool:
            return True

        @staticmethod
        def is_current_stream_capturing() -> bool:
            return False

        @staticmethod
        def memory_stats_as_nested_dict(_index: int) -> dict[str, Any]:
            return {"allocated_bytes": {"all": {"current": 0, "peak": 0}}}


def candidate(times: int) -> None:
    """An HTTP request of a program that speaks, which is not one of speech: what its candidate costs."""
    import asyncio
    from types import SimpleNamespace

    from vibevoice_otel.web.http import AsgiExchange

    async def app(_scope: object, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b""}

    async def send(_message: object) -> None: ...

    async def bare() -> None:
        for _ in range(times):
            await app({}, receive, send)

    async def observed() -> None:
        recorder: Any = SimpleNamespace(on_drop=None, settings=SimpleNamespace(response_headers=False))
        for _ in range(times):
            exchange = AsgiExchange({"path": "/health"}, now(), recorder, (), SimpleNamespace())  # type: ignore[arg-type]
            await exchange.serve(app, receive, send)

    asyncio.run(observed() if times % 2 == 0 else bare())


def wsgi_candidate(times: int) -> None:
    """As ``candidate``, of a WSGI application."""
    from types import SimpleNamespace
    from wsgiref.util import setup_testing_defaults

    from vibevoice_otel.web.wsgi import WsgiExchange, scope_of

    environ: dict[str, Any] = {"HTTP_ACCEPT": "*/*", "HTTP_USER_AGENT": "curl/8.5.0"}
    setup_testing_defaults(environ)

    def app(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("content-type", "application/json")])
        return [b"{}"]

    recorder: Any = SimpleNamespace(on_drop=None, settings=SimpleNamespace(response_headers=False))
    for _ in range(times):
        if times % 2:
            for _part in app(environ, lambda *_: None):
                pass
            continue
        exchange = WsgiExchange(scope_of(environ), now(), recorder, (), SimpleNamespace())
        body: Any = exchange.serve(app, environ, lambda *_: None)
        for _part in body:
            pass
        body.close()


WORK = {each.__name__: each for each in (floor, hook, frame, request, encode, card, candidate, wsgi_candidate)}

if __name__ == "__main__":
    WORK[sys.argv[1]](int(sys.argv[2]))
