"""Speech over HTTP, shape by shape: one trace a request in the caller's, its counts those of the witness and of the
listener.
"""

from __future__ import annotations

import asyncio
import itertools
import urllib.parse
from collections.abc import Callable

import pytest

from tests.stack.fixtures import eventually
from tests.upstream.server import Server
from tests.upstream.sink import Sink
from tests.upstream.test_realtime import total
from tests.upstream.traces import Trace
from tools.ports import free_ports
from vibevoice_otel import semconv
from vibevoice_otel.commands import doctor
from vibevoice_otel.commands.demo.whole import whole
from vibevoice_otel.semconv import Status

from .client import Answer, ask, post

VOICES = ["de-Spk0_man", "en-Emma_woman", "fr-Spk1_woman"]
SHORT = "Good evening, this is a short text."
MEDIUM = "The quick brown fox jumps over the lazy dog while the morning light moves across the hills, and then it ends."
SPEECH = "/v1/audio/speech"
WAV_HEADER = 44
Start = Callable[..., Server]


def seen(sink: Sink, answer: Answer, seconds: float = 60.0) -> Trace:
    """The request's whole trace."""
    sink.wait(lambda: whole(sink.spans(answer.trace_id)), seconds)
    return Trace(sink.spans(answer.trace_id))


def counted(sink: Sink) -> float:
    """How many requests the metrics count, once these have caught up with the spans, which are exported apart."""
    roots = sum(each.name == semconv.SYNTHESIZE.name for each in sink.spans())
    sink.wait(lambda: total(sink, semconv.REQUESTS) >= roots)
    return total(sink, semconv.REQUESTS)


def speak(server: Server, path: str, **wish: object) -> tuple[Answer, Trace, dict[str, int]]:
    before = server.counts()
    answer = post(server.port, path, **wish)
    assert answer.status == 200
    trace = seen(server.sink, answer)
    after = server.counts()
    return answer, trace, {name: count - before.get(name, 0) for name, count in after.items()}


def assert_told(trace: Trace, counts: dict[str, int], text: str, seconds: float) -> None:
    """One SERVER span, one synthesize in the caller's trace, and the witness's numbers."""
    assert trace.root.parent_id == trace.server.span_id
    assert trace.value(semconv.STATUS) == Status.SUCCESS
    assert len(trace.all(semconv.GENERATE)) == counts["generate"]
    assert len(trace.all(semconv.FRAME)) == counts["sample_speech_tokens"] == trace.value(semconv.FRAMES)
    assert len(trace.all(semconv.STEP)) == counts["step"]
    assert len(trace.all(semconv.DECODE)) == counts["decode"]
    assert trace.value(semconv.TEXT_LENGTH) == len(text)
    assert trace.value(semconv.AUDIO_DURATION) == pytest.approx(seconds)
    assert not any(text[:12] in str(each) for each in trace.spans), "no text anywhere"


def assert_streamed(server: Server, voice: str, text: str) -> Trace:
    """A WAV that is streamed tells everything: settings, first audio from the arrival on, how it played."""
    answer, trace, counts = speak(server, SPEECH, input=text, voice=voice)
    assert_told(trace, counts, text, (len(answer.body) - WAV_HEADER) / 48_000)
    assert trace.value(semconv.VOICE) == voice
    assert (trace.value(semconv.CFG), trace.value(semconv.STEPS)) == (1.25, 5)
    assert trace.one(semconv.FIRST_CHUNK).start == trace.root.start
    assert trace.value(semconv.UNDERRUNS) is not None
    return trace


@pytest.mark.parametrize(("voice", "text"), list(itertools.product(VOICES, [SHORT, MEDIUM])))
def test_streamed_by_a_plain_thread(running: Start, voice: str, text: str) -> None:
    """StreamingResponse, AudioStreamer, threading.Thread: one whole request; first audio is the first byte past the WAV
    header.
    """
    trace = assert_streamed(running("openai_threads"), voice, text)
    assert trace.one(semconv.PREPROCESS).parent_id == trace.root.span_id


@pytest.mark.parametrize("response_format", ["pcm", "sse"])
def test_other_bodies(running: Start, response_format: str) -> None:
    """Raw PCM plays by its rate; of events only the moment of the first audio is known, so underruns are not told."""
    server = running("openai_threads")
    _, trace, _ = speak(server, SPEECH, input=SHORT, response_format=response_format)
    assert trace.value(semconv.FIRST_AUDIO_LATENCY) is not None
    assert (trace.value(semconv.UNDERRUNS) is None) == (response_format == "sse")


@pytest.mark.parametrize("where", ["to_thread", "executor", "event_loop"])
def test_collected(running: Start, where: str) -> None:
    """Everything in one body: first audio is that body. Only a generation on the event loop blocks it."""
    server = running("openai_collected", OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="threading")
    answer, trace, counts = speak(server, SPEECH, input=SHORT, voice=VOICES[1], where=where)
    assert_told(trace, counts, SHORT, (len(answer.body) - WAV_HEADER) / 48_000)
    blocked = trace.value(semconv.EVENT_LOOP_BLOCKED)
    generated = trace.one(semconv.GENERATE)
    if where == "event_loop":
        assert blocked == pytest.approx((generated.end - generated.start) / 1e9, rel=0.01)
    else:
        assert blocked is None


def test_a_generation_without_a_link_stands_alone(running: Start) -> None:
    """Nothing that the request made reaches the model: no guess. The generation is counted by itself,
    and as unlinked.
    """
    environment = {
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "threading"
    }  # which would take the context into the executor
    server = running("openai_collected", **environment)
    answer = post(server.port, SPEECH, input=SHORT, where="all_in_executor")
    assert answer.status == 200
    server.sink.wait(lambda: total(server.sink, semconv.DROPPED, what="links", reason="no_object") == 1)
    assert not [each for each in server.sink.spans(answer.trace_id) if each.name == semconv.SYNTHESIZE.name]


def test_doctor_shows_what_stayed_unlinked(running: Start) -> None:
    """From the live service's metrics page: how many, why, and what to do."""
    (port,) = free_ports(1)
    server = running(
        "openai_collected",
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="threading",
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
    )
    page = f"http://127.0.0.1:{port}/metrics"
    post(server.port, SPEECH, input=SHORT)
    assert [found.level for found in doctor.unlinked(page)] == ["ok"]
    post(server.port, SPEECH, input=SHORT, where="all_in_executor")

    def told() -> bool:
        return [found.level for found in doctor.unlinked(page)] == ["note"]

    assert eventually(told, 60), list(doctor.unlinked(page))
    (found,) = doctor.unlinked(page)
    assert found.says.startswith("1 generations stayed unlinked (no_object): ")
    (found,) = doctor.unlinked(f"http://127.0.0.1:{free_ports(1)[0]}/metrics")
    assert found.level == "wrong"


def test_a_queue_to_a_worker_thread(running: Start) -> None:
    """The worker was there before the request; the AudioStreamer that it is given says whose work it does. A form is
    private too.
    """
    server = running("queue_worker")
    before = server.counts()
    payload = urllib.parse.urlencode({"text": SHORT}).encode()
    answer = asyncio.run(ask(server.port, f"/speak/{VOICES[0]}", payload, "application/x-www-form-urlencoded"))
    trace = seen(server.sink, answer)
    counts = {name: count - before.get(name, 0) for name, count in server.counts().items()}
    assert_told(trace, counts, SHORT, len(answer.body) / 48_000)


def test_a_listener_who_leaves_is_cancelled(running: Start) -> None:
    """Hanging up in the middle of the body."""
    server = running("openai_threads")
    answer = post(server.port, SPEECH, leave_after=20_000, input=MEDIUM * 2)
    trace = seen(server.sink, answer)
    assert trace.value(semconv.STATUS) == Status.CANCELLED
    assert trace.value(semconv.AFTER_DISCONNECT_DURATION) is not None


def test_what_is_not_speech_counts_nothing(running: Start) -> None:
    """A health check and an unknown path leave no request, whatever they answer."""
    server = running("openai_threads")
    speak(server, SPEECH, input=SHORT)
    before = counted(server.sink)
    answers = [post(server.port, path) for path in ("/health", "/nothing", "/v1/models")]
    assert [answer.status for answer in answers] == [405, 404, 404]
    speak(server, SPEECH, input=SHORT)
    server.sink.wait(lambda: total(server.sink, semconv.REQUESTS) > before)
    assert total(server.sink, semconv.REQUESTS) == before + 1
    assert not any(
        each.name == semconv.SYNTHESIZE.name for answer in answers for each in server.sink.spans(answer.trace_id)
    )


def test_a_loop_over_sentences(running: Start) -> None:
    """Three sentences, three generations, one request; the factor is their time over the model's seconds, at 48 kHz
    too.
    """
    server = running("sentences")
    text = "One sentence. And another one. The third ends it."
    answer, trace, counts = speak(server, SPEECH, input=text, voice=VOICES[0])
    generations = trace.all(semconv.GENERATE)
    assert len(generations) == counts["generate"] == 3
    assert trace.value(semconv.AUDIO_DURATION) == pytest.approx((len(answer.body) - WAV_HEADER) / 96_000)
    spent = sum(each.end - each.start for each in generations) / 1e9
    assert trace.value(semconv.REAL_TIME_FACTOR) == pytest.approx(spent / trace.value(semconv.AUDIO_DURATION), rel=1e-3)
    assert len(trace.all(semconv.FRAME)) == counts["sample_speech_tokens"]
    assert trace.value(semconv.VOICE) == VOICES[0], server.log
    for frame in trace.all(semconv.FRAME):
        assert any(each.span_id == frame.parent_id and each.start <= frame.start for each in generations)


def test_the_frameworks_own_histograms_tell_speech_by_its_route(running: Start) -> None:
    """docs/servers.md leaves speech out of http.server.duration by the label that names the route."""
    server = running("openai_threads")
    speak(server, SPEECH, input=SHORT)
    post(server.port, "/health")
    server.sink.wait(lambda: len(server.sink.metric("http.server.duration")) > 1)
    targets = {point.attributes.get("http.target") for point in server.sink.metric("http.server.duration")}
    assert SPEECH in targets
    assert len(targets) > 1
