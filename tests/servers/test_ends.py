"""How the requests of each shape end that do not end well, as their clients bring it about; and twenty at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from tests.upstream.server import Server
from tests.upstream.test_realtime import total
from vibevoice_otel import semconv
from vibevoice_otel.semconv import Status

from .client import Answer, ask
from .matrix import SHAPES, SPEECH, Shape
from .test_http import seen

TEXT = "A kumquat falls. It is late."
LONG = "The quick kumquat rolls over the lazy hill while the light moves; " * 3
VOICE = "en-Carter_man"
Start = Callable[..., Server]
#: What a shape that answers over HTTP is told to refuse with, and what that is.
REFUSALS = {
    401: (Status.REJECTED, "http_401"),
    403: (Status.REJECTED, "http_403"),
    413: (Status.REJECTED, "http_413"),
    422: (Status.REJECTED, "http_422"),
    429: (Status.REJECTED, "busy"),
    503: (Status.REJECTED, "busy"),
}
CLOSES = {
    1008: (Status.REJECTED, "websocket_close_1008"),
    1011: (Status.ERROR, "websocket_close_1011"),
    1013: (Status.REJECTED, "busy"),
    3000: (Status.REJECTED, "websocket_close_3000"),
    3003: (Status.REJECTED, "websocket_close_3003"),
    4401: (Status.REJECTED, "websocket_close_4401"),
    4403: (Status.REJECTED, "websocket_close_4403"),
}
OVER_HTTP = [name for name in SHAPES if name not in {"sentences", "realtime"}]
#: Shapes whose answer is sent while the model works.
STREAMED = ["threads", "queue", "sentences", "events", "realtime"]


def _spoken(running: Start, name: str) -> tuple[Shape, Server]:
    """A server of this shape that has spoken once on its route: from then on its refusals count."""
    shape = SHAPES[name]
    server = running(shape.module)
    before = total(server.sink, semconv.REQUESTS)
    _said(shape, server, TEXT, VOICE)
    server.sink.wait(lambda: total(server.sink, semconv.REQUESTS) > before, 60)
    return shape, server


def _said(shape: Shape, server: Server, text: str, voice: str, leave_after: int | None = None) -> Answer:
    return asyncio.run(shape.ask(server.port, text, voice, leave_after))


def _ended(shape: Shape, server: Server, text: str, voice: str, leave_after: int | None = None):
    answer = _said(shape, server, text, voice, leave_after)
    trace = seen(server.sink, answer)
    assert not server.sink.holds("kumquat"), "no text anywhere"
    return answer, trace, (trace.value(semconv.STATUS), trace.value(semconv.ERROR_TYPE))


@pytest.mark.parametrize("name", OVER_HTTP)
def test_a_refusal_over_http(running: Start, name: str) -> None:
    """Before any work: one request each with the status of its code, no generation, no latency."""
    shape, server = _spoken(running, name)
    for code, wanted in REFUSALS.items():
        answer, trace, end = _ended(shape, server, TEXT, f"refuse-{code}")
        assert (answer.status, end) == (code, wanted)
        assert not trace.all(semconv.GENERATE)
        assert trace.value(semconv.FIRST_AUDIO_LATENCY) is None


def test_what_the_framework_refuses(running: Start) -> None:
    """FastAPI's own 422, of a body that does not fit."""
    _, server = _spoken(running, "threads")
    trace = seen(server.sink, asyncio.run(ask(server.port, SPEECH, json.dumps({"voice": VOICE}).encode())))
    assert (trace.value(semconv.STATUS), trace.value(semconv.ERROR_TYPE)) == REFUSALS[422]


@pytest.mark.parametrize(("code", "wanted"), CLOSES.items())
def test_a_refusal_over_a_websocket(running: Start, code: int, wanted: tuple[Status, str]) -> None:
    """Closed after it was said what to speak, before any work."""
    shape, server = _spoken(running, "realtime")
    answer, trace, end = _ended(shape, server, TEXT, f"refuse-{code}")
    assert (answer.status, end, trace.value(semconv.CLOSE_CODE)) == (code, wanted, code)
    assert not trace.all(semconv.GENERATE)


@pytest.mark.parametrize("name", SHAPES)
def test_a_generation_that_fails(running: Start, name: str) -> None:
    """Whether the answer has begun or not: an error, by what was raised."""
    shape, server = _spoken(running, name)
    _, trace, end = _ended(shape, server, TEXT, "zz-Broken_man")
    assert end == (Status.ERROR, "KeyError")
    assert len(trace.all(semconv.GENERATE)) == 1
    assert trace.value(semconv.FIRST_AUDIO_LATENCY) is None


@pytest.mark.parametrize("name", ["threads", "queue", "events"])
def test_a_body_that_ends_early(running: Start, name: str) -> None:
    """The application returns without its last message, and raises nothing."""
    shape, server = _spoken(running, name)
    _, trace, end = _ended(shape, server, LONG, f"cut-{VOICE}")
    assert end == (Status.ERROR, "incomplete_response")
    assert trace.value(semconv.FIRST_AUDIO_LATENCY) is not None


@pytest.mark.parametrize("name", STREAMED)
def test_a_listener_who_leaves(running: Start, name: str) -> None:
    """In the middle of a stream: cancelled, and how long the model went on is told where it did."""
    shape, server = _spoken(running, name)
    _, trace, end = _ended(shape, server, LONG, VOICE, leave_after=20_000)
    assert end == (Status.CANCELLED, None)
    assert trace.value(semconv.FIRST_AUDIO_LATENCY) is not None


@pytest.mark.parametrize("name", ["collected", "sentences-collected"])
def test_a_departure_that_nobody_asks_for(running: Start, name: str) -> None:
    """An application that collects never looks whether its listener is there: a departure is not known, so not told."""
    shape, server = _spoken(running, name)
    _, trace, end = _ended(shape, server, TEXT, VOICE, leave_after=1)
    assert end == (Status.SUCCESS, None)
    assert trace.value(semconv.AFTER_DISCONNECT_DURATION) is None


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "sentences"])  # that one serves one at a time
def test_twenty_at_once_are_not_crossed(running: Start, name: str) -> None:
    """Each of another length: every trace has its own text's length, its own seconds of sound, and none of another's
    spans.
    """
    shape, server = _spoken(running, name)
    unlinked = total(server.sink, semconv.DROPPED, what="links")
    texts = [TEXT[:-1] + "x" * (4 * number) + "." for number in range(20)]

    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*(shape.ask(server.port, text, VOICE, None) for text in texts))

    for text, answer in zip(texts, asyncio.run(all_at_once()), strict=True):
        assert answer.status in {200, 1000}
        trace = seen(server.sink, answer)
        assert trace.value(semconv.TEXT_LENGTH) == len(text)
        assert trace.value(semconv.AUDIO_DURATION) == pytest.approx(shape.seconds(answer))
        assert {each.trace_id for each in trace.all(semconv.FRAME)} == {answer.trace_id}
        generations = {each.span_id for each in trace.all(semconv.GENERATE)}
        assert {each.parent_id for each in trace.all(semconv.FRAME)} == generations
    assert total(server.sink, semconv.DROPPED, what="links") == unlinked


def test_the_rate_of_a_websocket_is_told_by_its_bytes(running: Start) -> None:
    """At 48 kHz a chunk's bytes play for half as long as at 24 kHz: frames slower than their sound leave gaps, which at
    the other rate would be none. The seconds of sound are the model's.
    """
    shape = SHAPES["sentences"]
    server = running(shape.module, DOUBLE_FRAME_SECONDS="0.2")  # a frame is 0.133 s of sound
    answer = _said(shape, server, TEXT, VOICE)
    trace = seen(server.sink, answer)
    assert trace.value(semconv.AUDIO_DURATION) == pytest.approx(shape.seconds(answer))
    assert trace.value(semconv.UNDERRUNS) > 1
    assert trace.value(semconv.WORST_GAP) > 0.03
