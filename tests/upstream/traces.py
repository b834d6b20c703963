"""A request's trace, and what must hold of any: it is whole, its spans nest in time, its numbers are those that the
witness counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from vibevoice_otel import semconv
from vibevoice_otel.commands.demo.whole import SERVER_KIND, whole

from .client import Heard

if TYPE_CHECKING:
    from .server import Server
    from .sink import ReceivedSpan, Sink

ERROR_STATUS = 2


@dataclass
class Trace:
    spans: list[ReceivedSpan]

    def all(self, span: semconv.Span) -> list[ReceivedSpan]:
        return sorted((each for each in self.spans if each.name == span.name), key=lambda each: each.start)

    def one(self, span: semconv.Span) -> ReceivedSpan:
        found = self.all(span)
        assert len(found) == 1, f"{len(found)} spans {span.name}"
        return found[0]

    @property
    def root(self) -> ReceivedSpan:
        return self.one(semconv.SYNTHESIZE)

    @property
    def server(self) -> ReceivedSpan:
        found = [each for each in self.spans if each.kind == SERVER_KIND]
        assert len(found) == 1, f"{len(found)} SERVER spans"
        return found[0]

    def value(self, attribute: semconv.Attribute) -> Any:
        """The attribute on vibevoice.synthesize, None when it is not there."""
        return self.root.attributes.get(attribute.key)


@dataclass
class Seen:
    """One request from three sides: its trace, what the listener heard, what the witness counted."""

    trace: Trace
    heard: Heard
    counts: Mapping[str, int]


def settled(server: Server, sink: Sink, heard: Heard, before: Mapping[str, int]) -> Seen:
    """Wait until the request's whole trace has come in, and read the witness."""
    sink.wait(lambda: whole(sink.spans(heard.trace_id)))
    after = server.counts()
    delta = Counter({name: count - before.get(name, 0) for name, count in after.items()})
    return Seen(Trace(sink.spans(heard.trace_id)), heard, delta)


def assert_whole(trace: Trace) -> None:
    """One SERVER span, one synthesize below it, and every span of ours inside its parent, in the tree and in time."""
    by_id = {each.span_id: each for each in trace.spans}
    assert len(by_id) == len(trace.spans), "span ids repeat"
    kinds = {span.name: span for span in semconv.SPANS}
    assert trace.root.parent_id == trace.server.span_id
    assert trace.server.start <= trace.root.start <= trace.server.end
    for each in trace.spans:
        if each.name not in kinds or each.name == semconv.SYNTHESIZE.name:
            continue
        parent = by_id.get(each.parent_id)
        assert parent is not None, f"{each.name} is an orphan"
        allowed = {kinds[each.name].parent}
        if each.name in {semconv.LM_FORWARD.name, semconv.DECODE.name, semconv.CONNECTOR.name}:
            allowed.add(semconv.GENERATE.name)
        assert parent.name in allowed, f"{each.name} under {parent.name}"
        assert parent.start <= each.start <= each.end <= parent.end, f"{each.name} reaches beyond {parent.name}"


def assert_counts(seen: Seen, steps: int) -> None:
    """As many spans as the model made calls, and each frame with its ``steps`` consecutive diffusion steps."""
    trace, counts = seen.trace, seen.counts
    frames = trace.all(semconv.FRAME)
    assert len(frames) == counts["sample_speech_tokens"] > 0
    assert len(trace.all(semconv.STEP)) == counts["step"] == counts["set_timesteps"] * steps
    assert len(trace.all(semconv.DECODE)) == counts["decode"]
    assert len(trace.all(semconv.PREFILL)) == counts["forward_lm"]
    passes = Counter(each.attributes[semconv.LM_BRANCH.key] for each in trace.all(semconv.LM_FORWARD))
    assert sum(passes.values()) == counts["forward_tts_lm"] - counts["forward_lm"]
    assert passes["positive"] == passes["negative"]
    assert counts["generate"] == len(trace.all(semconv.GENERATE)) == 1
    children = defaultdict(list)
    for step in trace.all(semconv.STEP):
        children[step.parent_id].append(step)
    for number, frame in enumerate(frames):
        assert frame.attributes[semconv.FRAME_INDEX.key] == number
        own = children[frame.span_id]
        assert [step.attributes[semconv.STEP_INDEX.key] for step in own] == list(range(steps))
        assert all(earlier.end <= later.start for earlier, later in pairwise(own)), "steps overlap"
    assert all(earlier.end <= later.start for earlier, later in pairwise(frames)), "frames overlap"
    assert trace.value(semconv.FRAMES) == len(frames)
    undelivered = counts["sample_speech_tokens"] - len(seen.heard.chunks)
    assert (trace.value(semconv.FRAMES_UNDELIVERED) or 0) == undelivered


def assert_heard(seen: Seen) -> None:
    """First-audio latency lies inside the listener's own, moment by moment (both clocks are this machine's)."""
    first = seen.trace.one(semconv.FIRST_CHUNK)
    assert seen.heard.begun <= first.start
    latency = (first.end - first.start) / 1e9
    assert seen.trace.value(semconv.FIRST_AUDIO_LATENCY) == pytest.approx(latency, abs=1e-6)
    assert (
        latency <= seen.heard.first_audio + 0.05
    )  # on a busy machine the server's send may return after the listener has it
    assert seen.trace.value(semconv.AUDIO_DURATION) == sum(seen.heard.chunks) / 2 / 24_000
