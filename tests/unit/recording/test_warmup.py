"""Requests that met a warm-up: marked, counted apart, and out of the objectives only where the service made them before
it was ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from fastapi import FastAPI

from tests.support.pipeline import Pipeline, pipeline
from vibevoice_otel import semconv
from vibevoice_otel.adapters.shared.capture import hook_captures, hook_compilations
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.clock import Anchor
from vibevoice_otel.recording.timeline import Timeline, bound, thread
from vibevoice_otel.recording.warmup import startup
from vibevoice_otel.semconv import WarmUp
from vibevoice_otel.service.engine import StreamingTTSService
from vibevoice_otel.service.settings import ServiceSettings


async def started(app: FastAPI, *, fails: bool = False) -> list[str]:
    """The application's life span, as a server drives it; what it answered."""
    asked = iter(["lifespan.startup", "lifespan.shutdown"])
    answers: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": next(asked)}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message["type"])

    try:
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)  # type: ignore[arg-type]
    except RuntimeError:
        assert fails
    return answers


def app_that_warms_up(*, fails: bool = False) -> FastAPI:
    service = StreamingTTSService(ServiceSettings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if fails:
            raise RuntimeError("no model")
        await asyncio.to_thread(lambda: list(service.stream("warm up")))
        yield
        await asyncio.to_thread(lambda: list(service.stream("a user's text")))

    return FastAPI(lifespan=lifespan)


def roots(observed: Pipeline) -> list[Any]:
    observed.flush()
    spans = [span for span in observed.spans() if span.name == semconv.SYNTHESIZE.name]
    return [
        (span.attributes or {}).get(semconv.WARM_UP.key)
        for span in sorted(spans, key=lambda each: each.start_time or 0)
    ]


def test_what_the_service_speaks_before_it_is_ready_is_in_no_objective() -> None:
    """The request of the start is marked and counted apart, and its model load is told;
    the one after readiness counts.
    """
    app = app_that_warms_up()
    with pipeline(app=app) as observed:
        assert asyncio.run(started(app))[0] == "lifespan.startup.complete"
        assert roots(observed) == ["startup", None]
        assert observed.counted(semconv.WARM_UPS.name, "warmup") == {"startup": 1}
        assert observed.counted(semconv.REQUESTS.name, "status") == {"success": 1}
        assert observed.counted(semconv.MODEL_LOAD_DURATION.name, "cache")["miss"] == 1
    assert not startup.going_on


def test_a_start_that_fails_is_over() -> None:
    """What is spoken after it is no warm-up."""
    app = app_that_warms_up(fails=True)
    with pipeline(app=app):
        asyncio.run(started(app, fails=True))
        assert not startup.going_on


@pytest.fixture
def hooks() -> Any:
    made = Hooks("test", lambda *_: None, thread)
    yield made
    made.undo()


def test_a_request_that_met_a_compilation(hooks: Hooks) -> None:
    """torch.compile's first compilation, and each recompilation, are the request's on whose thread they happen; a
    cached call is none.
    """
    import torch._dynamo.callback as module

    hook_compilations(hooks, module)
    hook_compilations(hooks, module)  # the second adapter's, which adds nothing
    torch._dynamo.reset()
    function = torch.compile(lambda x: x * 2 + 1, backend="eager", dynamic=False)
    first, second, third = (Timeline(number, Anchor.take(), 0) for number in range(3))
    for timeline, size in ((first, 2), (second, 2), (third, 3)):
        with bound(timeline):
            function(torch.ones(size))
    assert [timeline.warm_up for timeline in (first, second, third)] == [[WarmUp.COMPILE], [], [WarmUp.COMPILE]]


def test_a_request_that_met_a_capture(hooks: Hooks) -> None:
    """A CUDA graph that is captured on a request's thread is that request's."""
    module = ModuleType("graphs")
    module.CUDAGraph = type(  # type: ignore[attr-defined]
        "CUDAGraph", (), {"capture_begin": lambda self: None, "capture_end": lambda self: None}
    )
    hook_captures(hooks, module)
    timeline = Timeline(1, Anchor.take(), 0)
    graph = module.CUDAGraph()
    with bound(timeline):
        graph.capture_begin()
        graph.capture_end()
    graph.capture_begin()
    graph.capture_end()
    assert timeline.warm_up == [WarmUp.CAPTURE]
