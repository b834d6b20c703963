"""Every shape, three voices by two lengths, five rounds: one trace a request in the caller's, sums that are those of
the witness and of the clients, and first audio that is the listener's.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.upstream.server import Server
from tests.upstream.sink import ReceivedSpan, Sink
from tests.upstream.test_realtime import total
from tests.upstream.traces import Trace
from vibevoice_otel import semconv
from vibevoice_otel.commands.demo.whole import whole
from vibevoice_otel.semconv import Status

from .client import Answer
from .matrix import SHAPES, Shape

VOICES = ["de-Spk0_man", "en-Emma_woman", "fr-Spk1_woman"]
WORD = "kumquat"
SHORT = "A kumquat falls. It is late."
MEDIUM = "The quick kumquat rolls over the lazy hill while the light moves. Then it stops. And that is where it ends."
ASKED = [(voice, text) for _ in range(5) for voice, text in itertools.product(VOICES, (SHORT, MEDIUM))]
#: A message larger than this holds sound, in every shape.
SPOKEN = 1000
SUM, SUCCESS = " sum", " success"
Start = Callable[..., Server]


@dataclass
class Asked:
    """Thirty requests of one shape, from all sides."""

    shape: Shape
    server: Server
    answers: list[Answer]
    traces: list[Trace]
    counts: dict[str, int]
    before: dict[str, float]
    after: dict[str, float]

    def grown(self, metric: semconv.Metric, what: str = "") -> float:
        """By how much a counter's value, or a histogram's count, has grown; ``what`` may be its sum."""
        return self.after[metric.name + what] - self.before[metric.name + what]


COUNTED = (semconv.REQUESTS, semconv.FIRST_AUDIO, semconv.INFERENCE, semconv.DECODE_DURATION, semconv.AUDIO_SECONDS,
           semconv.TEXT_LENGTHS, semconv.AUDIO_PRODUCED, semconv.PREPROCESS_DURATION)  # fmt: skip


def _told(sink: Sink) -> dict[str, float]:
    """What the metrics say now: counts, sums, and the requests that succeeded."""
    told = {metric.name: total(sink, metric) for metric in COUNTED}
    told.update({metric.name + SUM: sum(point.sum for point in sink.metric(metric.name)) for metric in COUNTED})
    told[semconv.REQUESTS.name + SUCCESS] = total(sink, semconv.REQUESTS, status="success")
    return told


@pytest.fixture(scope="module")
def asked(running: Start) -> Callable[[str], Asked]:
    """``asked(shape)``: the thirty, when they are first wanted."""
    done: dict[str, Asked] = {}

    def of(name: str) -> Asked:
        if name not in done:
            done[name] = _ask(SHAPES[name], running(SHAPES[name].module, DOUBLE_FRAME_SECONDS="0.01"))
        return done[name]

    return of


def _ask(shape: Shape, server: Server) -> Asked:
    sink = server.sink
    served = total(sink, semconv.REQUESTS)
    asyncio.run(shape.ask(server.port, SHORT, "en-Carter_man", None))  # the first may load what the others find
    sink.wait(lambda: total(sink, semconv.REQUESTS) > served, 60)
    before = _told(sink)
    counted = server.counts()
    answers = [asyncio.run(shape.ask(server.port, text, voice, None)) for voice, text in ASKED]
    sink.wait(lambda: total(sink, semconv.REQUESTS) >= before[semconv.REQUESTS.name] + len(ASKED), 60)
    counts = {name: count - counted.get(name, 0) for name, count in server.counts().items()}
    sink.wait(lambda: total(sink, semconv.INFERENCE) >= before[semconv.INFERENCE.name] + counts["step"], 60)
    traces = _settled(sink, {answer.trace_id for answer in answers})
    return Asked(shape, server, answers, [traces[answer.trace_id] for answer in answers], counts, before, _told(sink))


def _settled(sink: Sink, wanted: set[str]) -> dict[str, Trace]:
    """The traces, once each is whole."""

    def all_whole() -> bool:
        return wanted <= {trace_id for trace_id, spans in sink.traces().items() if whole(spans)}

    sink.wait(all_whole, 60)
    found: dict[str, list[ReceivedSpan]] = {}
    for each in sink.spans():
        found.setdefault(each.trace_id, []).append(each)
    return {trace_id: Trace(found[trace_id]) for trace_id in wanted}


@pytest.mark.parametrize("shape", SHAPES)
def test_one_trace_a_request(asked: Callable[[str], Asked], shape: str) -> None:
    """In the caller's trace, with voice, length, settings, preparation, outcome, the seconds that the client has, and
    without a word of the text.
    """
    found = asked(shape)
    for (voice, text), answer, trace in zip(ASKED, found.answers, found.traces, strict=True):
        assert answer.status in {200, 1000}
        assert trace.root.trace_id == answer.trace_id
        assert trace.root.parent_id == trace.server.span_id
        assert (trace.value(semconv.STATUS), trace.value(semconv.ERROR_TYPE)) == (Status.SUCCESS, None)
        assert trace.value(semconv.VOICE) == voice
        assert trace.value(semconv.TEXT_LENGTH) == len(text)
        assert trace.value(semconv.STEPS) == 5
        assert trace.value(semconv.AUDIO_DURATION) == pytest.approx(found.shape.seconds(answer))
        assert trace.value(semconv.FRAMES) == len(trace.all(semconv.FRAME)) > 0
        assert trace.all(semconv.PREPROCESS)
        assert all(each.parent_id == trace.root.span_id for each in trace.all(semconv.GENERATE))
    assert len({trace.root.trace_id for trace in found.traces}) == len(ASKED)
    assert not found.server.sink.holds(WORD), "no text anywhere"


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_those_of_the_witness_and_of_the_clients(asked: Callable[[str], Asked], shape: str) -> None:
    """Spans, counters and histograms against calls counted by the interpreter, and bytes that the clients have."""
    found = asked(shape)
    for span, function in (
        (semconv.GENERATE, "generate"),
        (semconv.FRAME, "sample_speech_tokens"),
        (semconv.STEP, "step"),
        (semconv.DECODE, "decode"),
        (semconv.PREFILL, "forward_lm"),
        (semconv.PREPROCESS, "process_input_with_cached_prompt"),
    ):
        assert sum(len(trace.all(span)) for trace in found.traces) == found.counts[function] > 0, span.name
    assert found.grown(semconv.REQUESTS) == found.grown(semconv.REQUESTS, SUCCESS) == len(ASKED)
    for voice in VOICES:
        assert total(found.server.sink, semconv.REQUESTS, voice=voice) >= len(ASKED) / len(VOICES)
    assert found.grown(semconv.FIRST_AUDIO) == found.grown(semconv.AUDIO_SECONDS) == len(ASKED)
    assert found.grown(semconv.INFERENCE) == found.counts["step"]
    assert found.grown(semconv.DECODE_DURATION) == found.counts["decode"]
    assert found.grown(semconv.PREPROCESS_DURATION) == found.counts["process_input_with_cached_prompt"]
    heard = sum(found.shape.seconds(answer) for answer in found.answers)
    assert found.grown(semconv.AUDIO_SECONDS, SUM) == pytest.approx(heard)
    assert found.grown(semconv.AUDIO_PRODUCED) == pytest.approx(heard)
    assert found.grown(semconv.TEXT_LENGTHS, SUM) == sum(len(text) for _, text in ASKED)


@pytest.mark.serial
@pytest.mark.parametrize("name", SHAPES)
def test_first_audio_is_that_of_the_listener(running: Start, name: str) -> None:
    """No earlier than the server's entry into the send that carries it, in every request; within 5 ms of the client's
    receipt by the median.

    A listener on the same machine may have it before the send returns, which is our moment. Measured without the
    interpreter's count of calls, which slows that return.
    """
    shape = SHAPES[name]
    server = running(shape.module, UPSTREAM_COUNTS="", DOUBLE_FRAME_SECONDS="0.01")
    answers = [asyncio.run(shape.ask(server.port, text, voice, None)) for voice, text in ASKED]
    traces = _settled(server.sink, {answer.trace_id for answer in answers})
    distances = []
    for answer in answers:
        first = traces[answer.trace_id].one(semconv.FIRST_CHUNK)
        ours = answer.monotonic(first.end)
        assert next(at for at, size in server.sends(answer.trace_id) if size > SPOKEN) <= ours
        distances.append(abs(answer.arrival(shape.begins(answer.body)) - ours) / 1e9)
        latency = traces[answer.trace_id].value(semconv.FIRST_AUDIO_LATENCY)
        assert latency == pytest.approx((first.end - first.start) / 1e9, abs=1e-6)
    assert statistics.median(distances) < 0.005, sorted(distances)
