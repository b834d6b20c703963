"""Flask under a WSGI server: one whole request in the caller's trace, as over ASGI."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.upstream.server import Server, serve
from tests.upstream.sink import Sink
from tests.upstream.test_realtime import total
from tests.upstream.trees import Tree
from vibevoice_otel import semconv
from vibevoice_otel.semconv import Status

from .client import ask, post
from .test_http import (
    MEDIUM,
    SHORT,
    SPEECH,
    VOICES,
    WAV_HEADER,
    Start,
    assert_streamed,
    assert_told,
    counted,
    seen,
    speak,
)

FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def flask(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """``flask(server)``: the shape under waitress or werkzeug, started when it is first asked for."""
    with ExitStack() as stack:
        servers: dict[str, Server] = {}

        def start(kind: str, **environment: str) -> Server:
            if kind not in servers:
                sink = stack.enter_context(Sink())
                command = (sys.executable, "-m", "shapes.flask_speech", kind)
                variables = {"DOUBLE_FRAME_SECONDS": "0.01", "VIBEVOICE_OTEL_RESPONSE_HEADERS": "true", **environment}
                where = tmp_path_factory.mktemp(kind)
                servers[kind] = stack.enter_context(serve(tree, sink, where, command=command, environment=variables))
            return servers[kind]

        yield start


@pytest.mark.parametrize(("voice", "text"), list(itertools.product(VOICES, [SHORT, MEDIUM])))
def test_streamed(flask: Start, voice: str, text: str) -> None:
    """A generator that a plain thread feeds: everything that an ASGI server's request tells."""
    trace = assert_streamed(flask("waitress"), voice, text)
    assert trace.value(semconv.EVENT_LOOP_BLOCKED) is None


@pytest.mark.serial
def test_first_audio_is_that_of_the_listener(flask: Start) -> None:
    """In 29 of 30 requests our moment is no later than the listener's; the median distance is below 5 ms."""
    server = flask("waitress")
    distances = []
    for _ in range(30):
        answer, trace, _ = speak(server, SPEECH, input=SHORT, voice=VOICES[0])
        heard = (answer.arrival(WAV_HEADER) - answer.begun) / 1e9
        distances.append(heard - float(trace.value(semconv.FIRST_AUDIO_LATENCY)))
    assert sum(distance > 0 for distance in distances) >= 29, sorted(distances)
    assert statistics.median(distances) < 0.005, sorted(distances)


def test_collected_in_the_view(flask: Start) -> None:
    """The view itself generates and answers with a file; a form is private too.
    A file that is no speech is let pass.
    """
    server = flask("waitress")
    before = server.counts()
    form = urllib.parse.urlencode({"text": SHORT, "voice": VOICES[1]}).encode()
    answer = asyncio.run(ask(server.port, "/collected", form, FORM))
    trace = seen(server.sink, answer)
    counts = {name: count - before.get(name, 0) for name, count in server.counts().items()}
    assert_told(trace, counts, SHORT, (len(answer.body) - WAV_HEADER) / 48_000)
    assert trace.value(semconv.FIRST_AUDIO_LATENCY) is not None
    assert asyncio.run(ask(server.port, "/file", b"", method="GET")).body == b"no speech"
    assert "the route /collected speaks" in server.log


def test_a_text_in_the_url_is_in_nothing(flask: Start) -> None:
    """Neither in a span of contrib's Flask layer, nor of ours, nor in werkzeug's access log. The route is learned as it
    is declared.
    """
    server = flask("werkzeug")
    path = f"/speak/{VOICES[2]}?{urllib.parse.urlencode({'text': SHORT})}"
    answer = asyncio.run(ask(server.port, path, b"", method="GET"))
    trace = seen(server.sink, answer)
    assert trace.value(semconv.STATUS) == Status.SUCCESS
    assert trace.root.parent_id == trace.server.span_id
    assert "/speak/" in str(trace.server.attributes)
    for part in ("Good evening", "Good+evening", "Good%20evening"):
        assert part not in str(trace.spans)
        assert part not in server.log
    assert "text=REDACTED" in server.log
    assert "the route /speak/{voice} speaks" in server.log


def test_interleaved_requests_are_not_crossed(flask: Start) -> None:
    """Twenty at once, each of another length: every trace has its own text's length and audio."""
    server = flask("waitress")
    texts = [SHORT + "x" * (4 * number) for number in range(20)]

    async def all_at_once() -> list:
        asked = (ask(server.port, SPEECH, json.dumps({"input": text}).encode()) for text in texts)
        return await asyncio.gather(*asked)

    for text, answer in zip(texts, asyncio.run(all_at_once()), strict=True):
        trace = seen(server.sink, answer)
        assert trace.value(semconv.TEXT_LENGTH) == len(text)
        assert trace.value(semconv.AUDIO_DURATION) == pytest.approx((len(answer.body) - WAV_HEADER) / 48_000)
    assert total(server.sink, semconv.DROPPED, what="links") == 0


@pytest.mark.parametrize(
    ("voice", "code", "ended"),
    [
        ("nobody", 404, (Status.REJECTED, "http_404")),
        ("crowd", 429, (Status.REJECTED, "busy")),
        ("boom", 500, (Status.ERROR, "http_500")),
    ],
)
def test_an_answer_without_speech_has_its_status(
    flask: Start, voice: str, code: int, ended: tuple[Status, str]
) -> None:
    """By the one table. What an exception of the view says is in no span."""
    server = flask("waitress")
    answer = post(server.port, SPEECH, input=SHORT, voice=voice)
    assert answer.status == code
    trace = seen(server.sink, answer)
    assert (trace.value(semconv.STATUS), trace.value(semconv.ERROR_TYPE)) == ended
    assert not trace.all(semconv.GENERATE)
    assert SHORT not in str(trace.spans)


def test_a_failed_generation_is_an_error(flask: Start) -> None:
    """The answer has begun, so its status stays 200; the trace says what was raised."""
    trace = seen((server := flask("waitress")).sink, post(server.port, SPEECH, input=SHORT, voice="zz-Broken_man"))
    assert (trace.value(semconv.STATUS), trace.value(semconv.ERROR_TYPE)) == (Status.ERROR, "KeyError")


@pytest.mark.parametrize("kind", ["waitress", "werkzeug"])
def test_a_listener_who_leaves_is_cancelled(flask: Start, kind: str) -> None:
    """Hanging up in the middle of the body: the server closes it."""
    server = flask(kind)
    answer = post(server.port, SPEECH, leave_after=20_000, input=MEDIUM * 8)
    trace = seen(server.sink, answer)
    assert (trace.value(semconv.STATUS), trace.value(semconv.ERROR_TYPE)) == (Status.CANCELLED, None)


def test_what_is_not_speech_counts_nothing(flask: Start) -> None:
    """A file and an unknown path leave no request, whatever they answer."""
    server = flask("waitress")
    speak(server, SPEECH, input=SHORT)
    before = counted(server.sink)
    answers = [asyncio.run(ask(server.port, path, b"", method="GET")) for path in ("/file", "/nothing")]
    assert [answer.status for answer in answers] == [200, 404]
    speak(server, SPEECH, input=SHORT)
    server.sink.wait(lambda: total(server.sink, semconv.REQUESTS) > before)
    assert total(server.sink, semconv.REQUESTS) == before + 1
    assert not any(
        each.name == semconv.SYNTHESIZE.name for answer in answers for each in server.sink.spans(answer.trace_id)
    )
