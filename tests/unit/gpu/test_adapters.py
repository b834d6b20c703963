"""The adapters' hooks on a device: each pass, decode and prefill is marked at both ends, under the name the host gave
it.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.fake_gpu.device import MS, US, FakeGpu, HostClock
from vibevoice_otel.adapters import realtime, upstream
from vibevoice_otel.adapters import transformers as native
from vibevoice_otel.adapters.shared import links
from vibevoice_otel.adapters.shared.audio_queue import _has_put, _put_begins
from vibevoice_otel.adapters.shared.intervals import times
from vibevoice_otel.hooks.wrappers import After, Before, Find, noted
from vibevoice_otel.recording.clock import Anchor, now
from vibevoice_otel.recording.device.notes import StreamNotes
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.timeline import Run, Timeline, bound, thread


class Live(HostClock):
    """The process's own clock, since the hooks read that."""

    def __call__(self) -> int:
        return now()

    @property  # type: ignore[override]
    def at(self) -> int:
        return now()

    @at.setter
    def at(self, _value: int) -> None: ...


def begun() -> tuple[Timeline, StreamNotes, FakeGpu]:
    gpu = FakeGpu(host=Live())
    timeline = Timeline(1, Anchor.take(), now())
    notes = StreamNotes(timeline.runs[0], gpu)
    timeline.runs[0].device = notes
    notes.begin()
    return timeline, notes, gpu


def check(timeline: Timeline, notes: StreamNotes, *leaves: Leaf) -> None:
    """Every noted leaf has its device interval, and the device never came by before the host called."""
    notes.end()
    notes.placing.collect(final=True)
    placed = notes.placing.placed
    expected = {(leaf, start) for leaf in leaves for start in timeline.runs[0].leaves[leaf][::2]}
    assert set(placed.leaves) == expected
    assert len(expected) == len(leaves)
    assert all(end - start >= 1 * MS for start, end in placed.leaves.values()), "the work itself, not its launch"
    assert set(placed.frames) == set(timeline.runs[0].frames)


def hooked(
    original: Callable[..., object], before: Before, after: After | None = None, find: Find | None = None
) -> Callable[..., object]:
    """``original`` as an adapter hooks it; a mistake in a note fails the test."""
    mistakes: list[BaseException] = []

    def run(*args: object) -> object:
        try:
            return noted(original, before, after, mistakes.append, thread, find)(*args)
        finally:
            assert not mistakes

    return run


def test_upstreams_realtime_model() -> None:
    """A window's prefill spans both models; then a frame, its decode, its audio put in the queue, and a pass of each
    branch.
    """
    timeline, notes, gpu = begun()

    def work(*_args: object, **_kwargs: object) -> None:
        gpu.kernel(1 * MS, 1 * US)

    lm, tts = hooked(work, realtime._window_begins), hooked(work, realtime._pass_begins, Run.leave)
    put = hooked(lambda *_: gpu.main.until, _put_begins, _has_put, links.of)
    streamer = type("Streamer", (), {})()
    links.mark(streamer, timeline)
    with bound(timeline):
        lm()
        tts()
        hooked(lambda _self: None, upstream._frame_begins)(object())
        hooked(work, *times(Leaf.DECODE))()
        while now() < gpu.main.until:  # what .cpu() does in the model's own put
            pass
        put(streamer)
        tts()
        tts()
    assert [mark.kind for mark in notes.marks].count(-1) >= 1, "the model's own wait was seen"
    check(timeline, notes, Leaf.PREFILL, Leaf.DECODE, Leaf.LM_POSITIVE, Leaf.LM_NEGATIVE)


def test_transformers_model() -> None:
    """The negative pass comes before its frame, the positive one after it; the prefill once."""
    timeline, notes, gpu = begun()

    def work(*_args: object, **_kwargs: object) -> None:
        gpu.kernel(1 * MS, 1 * US)

    with bound(timeline):
        hooked(work, native._prefill_begins, native._prefill_ends)()
        hooked(work, native._negative_begins, native._negative_ends)()
        at = now()
        timeline.runs[0].frames.append(at)
        notes.frame(at)
        hooked(work, *times(Leaf.DECODE))()
        hooked(work, native._positive_begins, Run.leave)()
        assert not timeline.runs[0].prefilling
    check(timeline, notes, Leaf.PREFILL, Leaf.DECODE, Leaf.LM_POSITIVE, Leaf.LM_NEGATIVE)
