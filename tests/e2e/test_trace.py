"""One request, one trace: an unmodified service's spans, checked against what a real client saw."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from tests.reliability.harness import wait_for
from vibevoice_otel import semconv

from .conftest import ERROR_STATUS, Running, Trace

LEAVES = (
    "vibevoice.prefill",
    "vibevoice.diffusion.step",
    "vibevoice.decode",
    "vibevoice.lm.forward",
    "vibevoice.semantic_encode",
    "vibevoice.connector",
)
#: The service's worker pool (its concurrency and four) grows as it likes, to its size.
POOL = 6
#: A few turns of the interpreter (sys.getswitchinterval is 5 ms), in seconds.
TURN = 0.02
TEXT = "It was a bright cold day in April."


#: The spans that name the generation's time; a frame's preparation before its first step is named too, but has no span
#: of its own.
NAMED_PARTS = {
    "vibevoice.prefill",
    "vibevoice.lm.forward",
    "vibevoice.diffusion.step",
    "vibevoice.decode",
    "vibevoice.connector",
    "vibevoice.semantic_encode",
}


def assert_well_formed(trace: Trace) -> None:
    """One tree under the SERVER span, each span inside its vibevoice.* parent; the model's thread does one thing at a
    time.
    """
    assert trace.root.parent_id == trace.server.span_id
    parents = {s.name: s.parent for s in semconv.SPANS}
    for span in trace.spans:
        assert span.end >= span.start, span
        if not span.name.startswith("vibevoice.") or span is trace.root:
            continue
        parent = trace.by_id[span.parent_id]
        expected = (
            {parents[span.name], "vibevoice.generate"}
            if parents[span.name] == "vibevoice.frame"
            else {parents[span.name]}
        )
        assert parent.name in expected, f"{span.name} under {parent.name}"
        assert parent.start <= span.start, f"{span.name} begins before {parent.name}"
        assert span.end <= parent.end, f"{span.name} ends after {parent.name}"
    for names in (
        LEAVES,
        ("vibevoice.frame",),
        ("vibevoice.queue", "vibevoice.model.load", "vibevoice.voice.load", "vibevoice.preprocess"),
    ):
        ordered = sorted((s for s in trace.spans if s.name in names), key=lambda s: s.start)
        for before, after in pairwise(ordered):
            assert before.end <= after.start, f"{before.name} overlaps {after.name}"


@pytest.mark.parametrize(("cfg", "steps"), [(1.5, 5), (2.0, 3), (1.0, 10)])
def test_a_request_is_one_whole_trace(service: Running, cfg: float, steps: int) -> None:
    """N frames with exactly ``steps`` step spans each, nested and in order as the design says,
    whatever cfg and steps.
    """
    answer, trace = service.speak(text=TEXT, voice="en-Emma_woman", cfg=cfg, steps=steps)
    assert answer.close_code == 1000
    assert_well_formed(trace)
    frames = trace.named("vibevoice.frame")
    assert len(frames) == answer.chunks == len(trace.named("vibevoice.decode"))
    for frame in frames:
        indices = [s.attributes["vibevoice.step.index"] for s in trace.children(frame, "vibevoice.diffusion.step")]
        assert indices == list(range(steps))
        assert frame.attributes["vibevoice.frame.steps"] == steps
    facts = trace.root.attributes
    assert facts["vibevoice.voice"] == "en-Emma_woman"
    assert facts["vibevoice.cfg"] == cfg
    assert facts["vibevoice.steps"] == steps
    assert facts["vibevoice.text.length"] == len(TEXT)
    assert facts["vibevoice.status"] == trace.server.attributes["vibevoice.status"] == "success"
    assert facts["gen_ai.output.type"] == "speech"
    assert facts["vibevoice.audio.duration"] == pytest.approx(len(answer.audio) / 48_000)
    assert trace.server.status != ERROR_STATUS
    for once in ("queue", "model.load", "voice.load", "preprocess", "generate", "first_chunk"):
        assert len(trace.named(f"vibevoice.{once}")) == 1, once
    assert len([s for s in trace.spans if not s.name.startswith("vibevoice.")]) == 1, (
        "one SERVER span and no span for every message"
    )


def test_what_is_unattributed_is_what_no_named_span_covers(service: Running) -> None:
    """The generation's time less every named part of it, reckoned again from the spans: not a nanosecond is hidden."""
    _, trace = service.speak(text=TEXT, steps=10)
    (generate,) = trace.named("vibevoice.generate")
    named = [span for span in trace.spans if span.name in NAMED_PARTS and generate.start <= span.start]
    assert {span.name for span in named} == NAMED_PARTS
    covered = sum(span.end - span.start for span in named) + sum(
        min(step.start for step in trace.children(frame, "vibevoice.diffusion.step")) - frame.start
        for frame in trace.named("vibevoice.frame")
    )
    unattributed = generate.attributes["vibevoice.unattributed"]
    assert isinstance(unattributed, float)
    assert unattributed == pytest.approx((generate.end - generate.start - covered) / 1e9, abs=1e-6)


def test_cold_and_cached_are_told_apart(start) -> None:
    """The first request loads the model and its voice, the next one finds both."""
    fresh = start(fresh=True)
    for expected in ("miss", "hit"):
        _, trace = fresh.speak(text="Hello", voice="de-Spk0_man")
        for name in ("vibevoice.model.load", "vibevoice.voice.load", "vibevoice.preprocess"):
            assert trace.named(name)[0].attributes["vibevoice.cache"] == expected, name
    assert fresh.total("vibevoice_model_load_duration_seconds_count", cache="miss") == 1
    assert fresh.total("vibevoice_model_load_duration_seconds_count", cache="hit") == 1


def test_eight_requests_at_once_are_eight_whole_traces(service: Running) -> None:
    """Nothing of one request strays into another, and afterwards no thread, file or timeline is left."""
    before = set(service.traces())

    async def together() -> None:
        voices = ["en-Emma_woman", "de-Spk0_man", "fr-Spk0_man", "kr-Spk1_man"] * 2
        await asyncio.gather(
            *(service.ask(text=f"{TEXT} {n}", voice=voice, steps=2 + n % 3) for n, voice in enumerate(voices))
        )

    asyncio.run(together())  # once before counting: the event loop's worker threads stay
    service.wait_for_traces(len(before) + 8)
    threads, files = service.ps.num_threads(), service.ps.num_fds()
    before = set(service.traces())
    asyncio.run(together())
    traces = service.wait_for_traces(len(before) + 8, but=before)
    assert len(traces) == 8
    for trace in traces:
        assert_well_formed(trace)
        assert (
            len(trace.named("vibevoice.diffusion.step"))
            == trace.root.attributes["vibevoice.steps"] * trace.root.attributes["vibevoice.frames"]
        )  # type: ignore[operator]
    assert service.total("vibevoice_streaming_active") == 0
    # The page's own thread and socket end a moment after their answer.
    assert wait_for(lambda: service.ps.num_threads() <= threads + POOL - 1), "one thread a request would be eight"
    assert wait_for(lambda: service.ps.num_fds() <= files)


@pytest.mark.serial
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.5])
def test_first_audio_is_what_the_client_saw(start, delay: float) -> None:
    """Never longer than the client's own figure, and the server's moments lie inside the client's.

    The server's figure ends when the send returns. The bytes have left by then, and the model's thread may take a turn
    of the interpreter in between: so much the client can be ahead, and only then.
    """
    running = start(VIBEVOICE_SERVICE_FAULTS=f'{{"first_audio_delay": {delay}}}')
    running.speak(text="warm up")
    for _ in range(3):
        answer, trace = running.speak(text="Hello there.")
        assert answer.first_audio is not None
        latency = trace.root.attributes["vibevoice.first_audio.latency"]
        assert isinstance(latency, float)
        assert delay <= latency <= (answer.first_audio - answer.began) / 1e9 + TURN
        (chunk,) = trace.named("vibevoice.first_chunk")
        assert (chunk.end - chunk.start) / 1e9 == pytest.approx(latency, abs=1e-9)
        slack = 1_000_000  # the two wall clock readings, a millisecond
        assert answer.began - slack <= chunk.start
        assert chunk.end <= answer.first_audio + slack + TURN * 1e9


def test_the_trace_continues_the_callers(service: Running) -> None:
    """A traceparent from outside is the SERVER span's parent."""
    before = set(service.traces())
    parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    asyncio.run(service.ask(headers={"traceparent": parent}, text="Hello"))
    (trace,) = service.wait_for_traces(len(before) + 1, but=before)
    assert trace.server.trace_id == "ab" * 16
    assert trace.server.parent_id == "cd" * 8
