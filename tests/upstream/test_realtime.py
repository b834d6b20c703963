"""The unmodified server, request by request: what it did not say in its logs, its trace and metrics say, and their
numbers are true.

Every number is compared with what the interpreter itself counted inside the server (counting.py) and with what the
listener heard.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import pytest

from vibevoice_otel import semconv
from vibevoice_otel.semconv import Status

from .client import ask, listen
from .server import Server
from .sink import Sink
from .traces import ERROR_STATUS, Seen, assert_counts, assert_heard, assert_whole, settled
from .trees import BROKEN, CORRUPT, HEADLESS, Tree

SHORT = "Good evening, this is a short text."
MEDIUM = "The quick brown fox jumps over the lazy dog while the morning light moves across the hills, and then it ends."
#: Steps that make a medium text last for seconds: what happens while it is spoken happens in time.
MANY = 60
MATRIX = list(itertools.product(["de-Spk0_man", "en-Emma_woman", "fr-Spk1_woman"], [SHORT, MEDIUM], [5, 9]))


def speak(server: Server, sink: Sink, **query: object) -> Seen:
    before = server.counts()
    return settled(server, sink, ask(server.port, **query), before)


def total(sink: Sink, metric: semconv.Metric, **attributes: str) -> float:
    """Sum over the metric's points that carry these attributes: values of a counter, counts of a histogram."""
    points = [p for p in sink.metric(metric.name) if attributes.items() <= p.attributes.items()]
    return sum(p.count if metric.instrument == "histogram" else p.value for p in points)


@pytest.mark.parametrize(
    ("voice", "text", "steps"), MATRIX, ids=lambda value: str(len(value)) if value in {SHORT, MEDIUM} else None
)
def test_a_request_is_one_whole_trace(server: Server, sink: Sink, voice: str, text: str, steps: int) -> None:
    """Three voices, two lengths, two numbers of steps: the trace is whole and each of its counts is the witness's."""
    seen = speak(server, sink, text=text, voice=voice, steps=steps, cfg=2)
    trace = seen.trace
    assert_whole(trace)
    assert_counts(seen, steps)
    assert_heard(seen)
    assert seen.heard.loudest > 0
    assert trace.value(semconv.STATUS) == Status.SUCCESS
    assert (trace.value(semconv.VOICE), trace.value(semconv.STEPS), trace.value(semconv.CFG)) == (voice, steps, 2.0)
    assert trace.value(semconv.TEXT_LENGTH) == len(text)
    assert trace.value(semconv.CLOSE_CODE) == seen.heard.close_code == 1000
    for silent in (
        semconv.VOICE_REQUESTED,
        semconv.STEPS_REQUESTED,
        semconv.CFG_REQUESTED,
        semconv.STEPS_STICKY,
        semconv.ERROR_TYPE,
    ):
        assert trace.value(silent) is None
    assert trace.one(semconv.MODEL_LOAD).attributes[semconv.CACHE.key] == "hit"
    assert trace.one(semconv.VOICE_LOAD).attributes[semconv.VOICE.key] == voice
    assert {
        trace.one(span).status for span in (semconv.QUEUE, semconv.PREPROCESS, semconv.GENERATE, semconv.FIRST_CHUNK)
    } == {0}
    assert not any(text[:12] in str(each) for each in trace.spans)


def test_speech_that_the_length_budget_cuts_off_says_so(server: Server, sink: Sink, tree: Tree) -> None:
    """The close is 1000 and the status a success, as upstream means it; why the speech ended stands beside it, on the
    span and counted.
    """
    if not tree.is_double:
        pytest.skip("the checkout's budget is thousands of frames")
    assert speak(server, sink, text=SHORT).trace.value(semconv.FINISH_REASON) == "eos"
    cut = speak(server, sink, text=MEDIUM * 5).trace
    assert (cut.value(semconv.FINISH_REASON), cut.value(semconv.STATUS)) == ("length", Status.SUCCESS)
    sink.wait(lambda: total(sink, semconv.FINISHED, finish_reason="length") == 1)


def test_metrics_are_the_spans_and_the_witness(server: Server, sink: Sink) -> None:
    """After some requests every histogram's count and sum is that of the spans,
    and of the calls that the witness saw.
    """
    for _ in range(2):
        speak(server, sink, text=SHORT, voice="en-Carter_man", steps=6)
    counts = server.counts()
    names = {span.name for span in semconv.SPANS}
    spans = [each for each in sink.spans() if each.name in names]
    requests = len([each for each in spans if each.name == semconv.SYNTHESIZE.name])
    # The steps of a request may be exported before its end is: its other figures come with an export after that.
    sink.wait(
        lambda: (
            (total(sink, semconv.INFERENCE), total(sink, semconv.REQUESTS), total(sink, semconv.ACTIVE))
            == (counts["step"], requests, 0)
        )
    )

    def compare(metric: semconv.Metric, span: semconv.Span) -> None:
        matching = [each for each in spans if each.name == span.name]
        assert total(sink, metric) == len(matching), metric.name
        seconds = sum(each.end - each.start for each in matching) / 1e9
        assert sum(p.sum for p in sink.metric(metric.name)) == pytest.approx(seconds, rel=1e-6), metric.name

    for metric, span in (
        (semconv.INFERENCE, semconv.STEP),
        (semconv.DECODE_DURATION, semconv.DECODE),
        (semconv.PREFILL_DURATION, semconv.PREFILL),
        (semconv.FIRST_AUDIO, semconv.FIRST_CHUNK),
        (semconv.QUEUE_DURATION, semconv.QUEUE),
        (semconv.VOICE_LOAD_DURATION, semconv.VOICE_LOAD),
        (semconv.MODEL_LOAD_DURATION, semconv.MODEL_LOAD),
        (semconv.PREPROCESS_DURATION, semconv.PREPROCESS),
    ):
        compare(metric, span)
    assert total(sink, semconv.DECODE_DURATION) == counts["decode"]
    assert total(sink, semconv.REQUESTS) == requests
    assert total(sink, semconv.REQUESTS, voice="en-Carter_man", status="success", cfg="1.5", steps="6") == 2
    own = [
        p
        for p in sink.metric(semconv.INFERENCE.name)
        if p.attributes["voice"] == "en-Carter_man" and p.attributes["steps"] == "6"
    ]
    assert {p.attributes["step_index"] for p in own} == {str(index) for index in range(6)}
    assert len({p.count for p in own}) == 1
    assert total(sink, semconv.ACTIVE) == 0
    assert sink.metric(semconv.DROPPED.name) == []


def test_an_unknown_voice_says_who_spoke_instead(server: Server, sink: Sink) -> None:
    """Upstream takes the default voice without a word; the span says so. (What was asked for instead might be the text
    itself.)
    """
    trace = speak(server, sink, text=SHORT, voice="en-Nobody", steps=5).trace
    assert trace.value(semconv.VOICE) == "en-Carter_man"
    assert trace.value(semconv.VOICE_REQUESTED) == "other"
    assert not any("en-Nobody" in str(each) for each in trace.spans)
    assert not any("en-Nobody" in p.attributes.values() for p in sink.metric(semconv.REQUESTS.name))


def test_replaced_parameters_are_shown(server: Server, sink: Sink) -> None:
    """cfg=-3 becomes 1.5 and steps=many becomes what was in force: both stand beside what was asked for."""
    speak(server, sink, text=SHORT, steps=5)
    trace = speak(server, sink, text=SHORT, cfg="-3", steps="many").trace
    assert (trace.value(semconv.CFG), trace.value(semconv.CFG_REQUESTED)) == (1.5, "-3")
    assert (trace.value(semconv.STEPS), trace.value(semconv.STEPS_REQUESTED)) == (5, "other")
    assert trace.value(semconv.STEPS_STICKY) is None


def test_steps_that_stick_are_shown(server: Server, sink: Sink) -> None:
    """A request without steps runs with those of the one before it; once they are the initial ones again, nothing
    sticks.
    """
    assert speak(server, sink, text=SHORT, steps=8).trace.value(semconv.STEPS_STICKY) is None
    stuck = speak(server, sink, text=SHORT)
    assert_counts(stuck, 8)
    assert stuck.trace.value(semconv.STEPS) == 8
    assert stuck.trace.value(semconv.STEPS_STICKY) is True
    assert speak(server, sink, text=SHORT, steps=5).trace.value(semconv.STEPS_STICKY) is None
    assert speak(server, sink, text=SHORT).trace.value(semconv.STEPS_STICKY) is None


def test_audio_that_is_not_a_number_is_an_error(server: Server, sink: Sink) -> None:
    """cfg=nan is served as full-length silence and a normal close; here it is an error with every frame counted as
    defective.
    """
    before = total(sink, semconv.DEFECTIVE_FRAMES, kind="nan")
    seen = speak(server, sink, text=SHORT, cfg="nan", steps=5)
    trace = seen.trace
    assert (seen.heard.close_code, seen.heard.loudest) == (1000, 0)
    assert_whole(trace)
    assert_counts(seen, 5)
    assert (trace.value(semconv.STATUS), trace.value(semconv.ERROR_TYPE)) == (Status.ERROR, "nan_audio")
    assert trace.root.status == trace.server.status == ERROR_STATUS
    assert trace.value(semconv.FRAMES_NAN) == len(seen.heard.chunks)
    assert {
        each.attributes.get(semconv.FRAME_DEFECT.key) for each in trace.all(semconv.FRAME)[: len(seen.heard.chunks)]
    } == {"nan"}
    sink.wait(lambda: total(sink, semconv.DEFECTIVE_FRAMES, kind="nan") == before + len(seen.heard.chunks))
    # So long a stream was seen while it was open: its backlog of chunks, under the voice that spoke.
    assert "en-Carter_man" in {each.attributes["voice"] for each in sink.metric(semconv.BUFFER_LENGTH.name)}


def test_an_empty_text_is_rejected(server: Server, sink: Sink) -> None:
    """Nothing to speak: no frame, a normal close, status rejected."""
    seen = speak(server, sink, text="  ")
    assert (seen.heard.chunks, seen.counts["generate"]) == ([], 0)
    assert (seen.trace.value(semconv.STATUS), seen.trace.value(semconv.ERROR_TYPE)) == (Status.REJECTED, "empty_text")
    assert_whole(seen.trace)


def test_a_failed_generation_is_an_error_though_the_socket_closes_normally(server: Server, sink: Sink) -> None:
    """The generation thread raises, the service closes with 1000; the trace ends in error, at the generate span."""
    seen = speak(server, sink, text=SHORT, voice=BROKEN, steps=5)
    trace = seen.trace
    assert "generation_error" in seen.heard.events
    assert (seen.heard.close_code, trace.value(semconv.CLOSE_CODE)) == (1000, 1000)
    assert_whole(trace)
    assert (trace.value(semconv.STATUS), trace.value(semconv.ERROR_TYPE)) == (Status.ERROR, "KeyError")
    assert trace.value(semconv.VOICE) == BROKEN
    assert trace.one(semconv.GENERATE).status == trace.root.status == trace.server.status == ERROR_STATUS
    assert len(trace.all(semconv.FRAME)) == seen.counts["sample_speech_tokens"] == 0


@pytest.mark.parametrize(("voice", "failing"), [(CORRUPT, semconv.VOICE_LOAD), (HEADLESS, semconv.PREPROCESS)])
def test_a_failure_before_generation_is_placed(server: Server, sink: Sink, voice: str, failing: semconv.Span) -> None:
    """An unreadable voice fails at its load, one that the processor cannot use at preprocessing;
    no generation begins.
    """
    seen = speak(server, sink, text=SHORT, voice=voice, steps=5)
    trace = seen.trace
    assert seen.heard.close_code == 1000
    assert trace.value(semconv.STATUS) == Status.ERROR
    assert trace.one(failing).status == ERROR_STATUS
    assert trace.value(semconv.ERROR_TYPE) == trace.one(failing).attributes[semconv.ERROR_TYPE.key]
    assert not trace.all(semconv.GENERATE)
    assert_whole(trace)
    sink.wait(lambda: total(sink, semconv.REQUESTS, voice=voice, status="error", cfg="1.5", steps="5") >= 1)


def test_a_second_client_is_rejected_as_busy(server: Server, sink: Sink) -> None:
    """While one is spoken to, the other is turned away with 1013: status rejected, and no SLO is touched."""
    before = server.counts()

    async def two() -> tuple[object, object]:
        speaking = asyncio.Event()
        first = asyncio.create_task(listen(server.port, hold=speaking, text=MEDIUM, steps=MANY))
        await speaking.wait()
        second = await listen(server.port, text=SHORT)
        return await first, second

    first, second = asyncio.run(two())
    turned_away = settled(server, sink, second, before).trace
    assert second.close_code == turned_away.value(semconv.CLOSE_CODE) == 1013
    assert (turned_away.value(semconv.STATUS), turned_away.value(semconv.ERROR_TYPE)) == (Status.REJECTED, "busy")
    assert turned_away.root.status == ERROR_STATUS
    assert turned_away.value(semconv.GENERATION_THREADS) == 2
    served = settled(server, sink, first, before)
    assert_whole(served.trace)
    assert_counts(served, MANY)
    assert served.trace.value(semconv.STATUS) == Status.SUCCESS


def test_a_listener_who_leaves_costs_what_it_says(server: Server, sink: Sink) -> None:
    """The window is finished for nobody, and the event loop stands still for it: both durations are on the span."""
    before = server.counts()
    stalls, over = list[float](), threading.Event()

    def knock() -> None:
        """From before the listener leaves: the event loop may stand still as soon as he has."""
        while not over.wait(0.005):
            began = time.monotonic()
            server.config()
            stalls.append(time.monotonic() - began)

    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        heard = asyncio.run(listen(server.port, leave_after=2, text=MEDIUM, steps=MANY))
        seen = settled(server, sink, heard, before)
    finally:
        over.set()
        knocking.join()
    trace = seen.trace
    assert_whole(trace)
    frames = seen.counts["sample_speech_tokens"]
    assert len(trace.all(semconv.FRAME)) == trace.value(semconv.FRAMES) == frames
    assert frames % 6 == 0  # upstream finishes a window once begun
    assert trace.value(semconv.STATUS) == Status.CANCELLED
    assert trace.root.status == trace.server.status == 0
    assert 0 < trace.value(semconv.FRAMES_UNDELIVERED) <= frames - 2
    blocked = trace.value(semconv.EVENT_LOOP_BLOCKED)
    assert blocked is not None
    assert 0 < blocked <= trace.value(semconv.AFTER_DISCONNECT_DURATION) + 1.0
    assert trace.value(semconv.AFTER_DISCONNECT_FRAMES) is not None
    if blocked > 0.2:
        assert max(stalls) > blocked / 4  # another client felt it
    assert speak(server, sink, text=SHORT, steps=5).trace.value(semconv.STATUS) == Status.SUCCESS


def test_too_many_steps_are_seen_to_spoil_the_audio(server: Server, sink: Sink) -> None:
    """1000 steps give frames that are not numbers, served as silence; the steps of each frame are all there."""
    before = server.counts()
    heard = asyncio.run(listen(server.port, leave_after=1, text=SHORT, steps=1000))
    seen = settled(server, sink, heard, before)
    assert seen.trace.value(semconv.STEPS) == 1000
    assert seen.trace.value(semconv.FRAMES_NAN) >= 1
    frames = seen.trace.all(semconv.FRAME)
    assert {each.attributes[semconv.FRAME_STEPS.key] for each in frames} == {1000}
    assert len(frames) * 1000 == seen.counts["step"]
    assert heard.loudest == 0
    speak(server, sink, text=SHORT, steps=5)
