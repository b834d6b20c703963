"""The assembler, whatever it is given: a well-formed tree, nested in time, and histograms that equal the records."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.support.builders import CountingIds, bounds
from tests.support.metrics import by_name
from vibevoice_otel import semconv
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.recording.assembler import Assembly
from vibevoice_otel.recording.clock import Anchor
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.recording.timeline import Asked, Timeline

#: What may happen next in a request; the time until then is drawn with it (nanoseconds).
EVENTS = (
    "frame", "base", "step", "decode", "positive", "negative", "prefill", "connector", "semantic", "put", "look",
    "silent", "nan", "send", "drain", "cancel", "end generate", "close", "fail", "sticky",
)  # fmt: skip
LEAVES = {
    "decode": Leaf.DECODE, "positive": Leaf.LM_POSITIVE, "negative": Leaf.LM_NEGATIVE, "prefill": Leaf.PREFILL,
    "connector": Leaf.CONNECTOR, "semantic": Leaf.SEMANTIC_ENCODE,
}  # fmt: skip


class Story:
    """One request told by events, as the threads would note them; drained whenever an event says so."""

    def __init__(self, sampled: bool) -> None:
        self.at = 1_000_000
        asked = Asked(voice="en-Carter_man", cfg="1.5", steps="5", text_length=60)
        self.timeline = Timeline(1, Anchor(wall=10**18, monotonic=0), self.at, asked)
        self.timeline.used.voice, self.timeline.used.cfg, self.timeline.used.steps = "en-Carter_man", 1.5, 5
        self.assembly = Assembly(
            self.timeline, 0xABC, 0xF00D, 0x5E, bounds(), CountingIds(), sampled=sampled, recording=sampled
        )
        self.batches: list[Batch] = []
        self.done = Counter[str]()

    def begin(self) -> None:
        t = self.timeline
        t.accepted = self.tick(1000)
        t.work_start = self.tick(1000)
        t.note(semconv.QUEUE, t.accepted, t.work_start)
        start = self.at
        t.note(semconv.PREPROCESS, start, self.tick(1000), **{semconv.CACHE.key: "hit"})
        t.runs[0].start = self.tick(1000)

    def tick(self, nanoseconds: int) -> int:
        self.at += nanoseconds
        return self.at

    def tell(self, event: str, wait: int, length: int) -> None:
        t = self.timeline
        self.tick(wait)
        generating = t.generate_start is not None and t.generate_end is None
        if event in LEAVES and generating:
            started = self.at
            t.runs[0].leaves[LEAVES[event]].extend((started, self.tick(length)))
        elif event in {"frame", "base", "step", "put"} and generating:
            {"frame": t.runs[0].frames, "base": t.runs[0].bases, "step": t.runs[0].steps, "put": t.puts}[event].append(
                self.at
            )
        elif event in {"look", "silent", "nan"}:
            low, high = {"look": (-0.5, 0.5), "silent": (0.0, 0.0), "nan": (float("nan"), 0.1)}[event]
            t.audio_low.append(low)
            t.audio_high.append(high)
            t.audio_samples.append(length % 10_000)
            t.delivered += 1
            t.nan += event == "nan"
            t.silent += event == "silent"
        elif event == "send" and t.cancelled is None:
            started = self.at
            t.sends.extend((started, self.tick(length), 6400))
            t.first_send = t.first_send or self.at
        elif event == "drain":
            batch = self.assembly.drain()
            if batch is not None:
                self.batches.append(batch)
            return
        elif event == "cancel" and t.service_closed is None:
            t.cancelled = t.cancelled or self.at
        elif event == "end generate" and generating:
            t.runs[0].end = self.at
        elif event == "close" and t.cancelled is None:
            t.service_closed, t.close_code = self.at, 1000 + length % 20
        elif event == "fail":
            t.work_error = "RuntimeError"
        elif event == "sticky":
            t.used.steps_sticky = True
        else:
            return
        self.done[event] += 1

    def finish(self, shutdown: bool) -> None:
        t = self.timeline
        if not shutdown:
            t.runs[0].end = t.generate_end or (self.tick(1000) if t.generate_start is not None else None)
            t.work_end = self.tick(1000)
            t.web_closed = self.tick(1000)
        self.batches.append(self.assembly.finish(end=self.tick(1000), shutdown=shutdown))


stories = st.lists(
    st.tuples(st.sampled_from(EVENTS), st.integers(1, 5_000_000), st.integers(1, 20_000_000)), max_size=60
)


def spans(batches: list[Batch]) -> list[tuple[semconv.Span, int, int, int, int]]:
    """(span, id, parent, start, end) of every record."""
    found = [(op.span, op.span_id, op.parent_id, op.start, op.end) for batch in batches for op in batch.operations]
    for batch in batches:
        for block in batch.blocks:
            rows = zip(
                block.span_id.tolist(), block.parent_id.tolist(), block.start.tolist(), block.end.tolist(), strict=True
            )
            found.extend((block.span, *row) for row in rows)
    return found


@settings(max_examples=150, deadline=None)
@given(events=stories, generates=st.booleans(), shutdown=st.booleans())
def test_any_story_becomes_a_well_formed_tree(
    events: list[tuple[str, int, int]], generates: bool, shutdown: bool
) -> None:
    """One root; ids unique; every parent is there and of the kind that DESIGN.md says; no child outside its parent; no
    negative time.
    """
    story = Story(sampled=True)
    if generates:
        story.begin()
    for event in events:
        story.tell(*event)
    story.finish(shutdown)
    records = spans(story.batches)
    by_id = {span_id: (span, start, end) for span, span_id, _, start, end in records}
    assert len(by_id) == len(records), "ids repeat"
    kinds = {span.name: span for span in semconv.SPANS}
    assert [span for span, *_ in records].count(semconv.SYNTHESIZE) == 1
    assert [batch.final for batch in story.batches] == [False] * (len(story.batches) - 1) + [True]
    for span, _, parent_id, start, end in records:
        assert start <= end, f"{span} ends before it starts"
        if span is semconv.SYNTHESIZE:
            assert parent_id == 0x5E
            continue
        parent, parent_start, parent_end = by_id[parent_id]
        allowed = {kinds[span.name].parent} | (
            {semconv.GENERATE.name} if kinds[span.name].parent == semconv.FRAME.name else set()
        )
        assert parent.name in allowed, f"{span} under {parent}"
        assert parent_start <= start <= end <= parent_end, (
            f"{span} {start}-{end} reaches beyond {parent} {parent_start}-{parent_end}"
        )


@settings(max_examples=60, deadline=None)
@given(events=stories, synthetic=st.just(False))
def test_histograms_equal_the_records(events: list[tuple[str, int, int]], synthetic: bool) -> None:
    """However it is cut into batches: each histogram's count and sum are those of the spans it is derived from."""
    story = Story(sampled=False)
    story.begin()
    for event in events:
        story.tell(*event)
    story.finish(shutdown=False)
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    sink = FromSpans(Instruments(provider, "0", Limits(2000, 50_000)), bounds().step_labels(), 0.45)
    for batch in story.batches:
        sink.consume(batch)
    got = _histograms(reader)
    provider.shutdown()
    expected: dict[str, list[float]] = {}
    feeds = {
        semconv.STEP: semconv.INFERENCE,
        semconv.DECODE: semconv.DECODE_DURATION,
        semconv.PREFILL: semconv.PREFILL_DURATION,
        semconv.FIRST_CHUNK: semconv.FIRST_AUDIO,
        semconv.QUEUE: semconv.QUEUE_DURATION,
        semconv.PREPROCESS: semconv.PREPROCESS_DURATION,
    }
    for span, _, _, start, end in spans(story.batches):
        if span in feeds:
            expected.setdefault(feeds[span].name, []).append((end - start) / 1e9)
    for metric in feeds.values():
        values = expected.get(metric.name, [])
        count, total = got.get(metric.name, (0, 0.0))
        assert count == len(values), metric
        assert total == pytest.approx(sum(values), rel=1e-9, abs=1e-12)
    assert got[semconv.REQUESTS.name][0] == 1


def _histograms(reader: InMemoryMetricReader) -> dict[str, tuple[float, float]]:
    """Count and sum of each histogram; a counter's value as both."""
    found: dict[str, tuple[float, float]] = {}
    for name, points in by_name(reader).items():
        if points and hasattr(points[0], "count"):
            found[name] = (sum(p.count for p in points), sum(p.sum for p in points))
        else:
            found[name] = (sum(p.value for p in points),) * 2
    return found


@pytest.mark.parametrize("jump", [-3600.0, -1.0, 1.0, 3600.0])
def test_a_step_of_the_wall_clock_never_shows(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """NTP moves the wall clock by an hour in the middle of a request: its durations are the monotonic clock's, its
    spans stay together.
    """
    import time

    story = Story(sampled=True)
    before = time.time_ns()
    story.timeline.anchor = Anchor.take()
    after = time.time_ns()
    story.begin()
    real = time.time_ns
    for event in ("frame", "step", "step", "decode", "frame", "step", "drain", "send"):
        monkeypatch.setattr(time, "time_ns", lambda: real() + int(jump * 1e9))
        story.tell(event, 1000, 1000)
    story.finish(shutdown=False)
    times = np.array([(start, end) for _, _, _, start, end in spans(story.batches)])
    assert (times[:, 1] >= times[:, 0]).all()
    assert times.max() - times.min() == story.at - story.timeline.opened
    anchored = times.min() - (story.timeline.opened - story.timeline.anchor.monotonic)
    assert before <= anchored <= after
