"""Facts to records: whole trees compared, to the letter."""

from __future__ import annotations

import pytest

from tests.support.builders import MS, add_frame, assembly, finish, request, tree
from vibevoice_otel import semconv
from vibevoice_otel.recording.assembler import Assembly
from vibevoice_otel.recording.clock import Anchor
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.recording.timeline import Asked, Timeline
from vibevoice_otel.semconv import Part


def test_a_request_becomes_this_tree() -> None:
    """One request with two frames of two steps yields exactly these records: names, times, ids, parents, attributes."""
    assert tree(finish(request())) == [
        "vibevoice.synthesize 0-32 61453<94",
        "vibevoice.first_chunk 0-17 18<61453",
        "vibevoice.queue 1-3 15<61453",
        "vibevoice.voice.load 3-5 16<61453 cache=miss voice=en-Carter_man",
        "vibevoice.preprocess 5-6 17<61453 cache=miss",
        "vibevoice.generate 7-30 1<61453 frames=2 unattributed=0.005",
        "vibevoice.prefill 8-10 8<1 prefill.window=0",
        "vibevoice.frame 10-20 2<1 frame.index=0 frame.steps=2",
        "vibevoice.diffusion.step 11-13 4<2 step.index=0",
        "vibevoice.diffusion.step 13-15 5<2 step.index=1",
        "vibevoice.decode 15-16 13<2",
        "vibevoice.lm.forward 16-17 9<2 lm.branch=positive",
        "vibevoice.lm.forward 17-18 11<2 lm.branch=negative",
        "vibevoice.frame 20-30 3<1 frame.index=1 frame.steps=2",
        "vibevoice.diffusion.step 21-23 6<3 step.index=0",
        "vibevoice.diffusion.step 23-25 7<3 step.index=1",
        "vibevoice.decode 25-26 14<3",
        "vibevoice.lm.forward 26-27 10<3 lm.branch=positive",
        "vibevoice.lm.forward 27-28 12<3 lm.branch=negative",
    ]


def test_the_request_span_says_what_was_used_and_heard() -> None:
    """vibevoice.synthesize carries the request's facts, and none that is empty."""
    root = finish(request()).operation(semconv.SYNTHESIZE)
    assert root is not None
    assert root.attributes == {
        "gen_ai.output.type": "speech",
        "gen_ai.request.model": "tiny",
        "vibevoice.voice": "en-Carter_man",
        "vibevoice.cfg": 1.5,
        "vibevoice.steps": 2,
        "vibevoice.text.length": 12,
        "vibevoice.status": "success",
        "vibevoice.frames": 2,
        "vibevoice.audio.duration": pytest.approx(0.2667, abs=1e-4),
        "vibevoice.real_time_factor": pytest.approx(0.023 / 0.26667, rel=1e-3),
        "vibevoice.first_audio.latency": 0.017,
        "vibevoice.underruns": 0,
        "vibevoice.playback.gap": 0.0,
        "vibevoice.send.blocked": 0.001,
        "vibevoice.frames.silent": 0,
        "vibevoice.frames.nan": 0,
        "vibevoice.frames.clipped": 0,
        "vibevoice.leading_silence": 0.0,
        "vibevoice.websocket.close_code": 1000,
        "vibevoice.streams.active": 1,
    }


def test_first_audio_parts_add_up_to_the_latency() -> None:
    """The parts are consecutive: their sum is the first-audio latency, and each is what the tree shows."""
    parts = finish(request()).first_audio_parts
    assert parts is not None
    assert sum(parts.values()) == pytest.approx(0.017, abs=1e-12)
    milliseconds = {part: round(seconds * 1000, 6) for part, seconds in parts.items() if seconds}
    assert milliseconds == {
        Part.OTHER: 4.0,  # arrival to acceptance, preparation to prefill, frame entry to base
        Part.QUEUE: 2.0,
        Part.VOICE_LOAD: 2.0,
        Part.PREPROCESS: 1.0,
        Part.PREFILL: 2.0,
        Part.DIFFUSION: 4.0,
        Part.DECODE: 1.0,
        Part.DELIVERY: 1.0,
    }


def test_a_long_stream_drained_in_pieces_is_the_same_tree() -> None:
    """Draining after each frame changes neither records nor totals: only ids, and partial=true on what left early."""
    whole = finish(request(frames=6))
    t = request(frames=1)
    pieces = assembly(t)
    batches = []
    for frame in range(1, 6):
        add_frame(t, (10 + 10 * frame) * MS, 2)
        batch = pieces.drain()
        assert batch is not None
        assert not batch.final
        batches.append(batch)
        assert len(t.runs[0].steps) <= 4, "what was drained is gone from the timeline"
    t.runs[0].end = 70 * MS
    t.work_end = t.service_closed = 71 * MS
    t.web_closed = 72 * MS
    batches.append(pieces.finish(end=72 * MS))

    def names_and_times(*parts: object) -> list[str]:
        lines = [line for part in parts for line in tree(part)]  # type: ignore[arg-type]
        return sorted(" ".join(line.split(" ")[:2]) for line in lines)

    assert names_and_times(*batches) == names_and_times(whole)
    roots = [batch.operation(semconv.SYNTHESIZE) for batch in (whole, batches[-1])]
    assert roots[0] is not None
    assert roots[1] is not None
    assert roots[0].attributes == roots[1].attributes
    assert sum(b.audio_seconds for b in batches) == pytest.approx(whole.audio_seconds)
    assert sum(b.generate_seconds for b in batches) == pytest.approx(whole.generate_seconds)
    assert all("stream.partial=True" in line for line in tree(batches[0]) if "diffusion.step" in line)
    assert not any("stream.partial" in line for line in tree(batches[-1]))


def test_drain_of_a_request_without_a_complete_frame_takes_nothing() -> None:
    """The frame that is being made stays where it is."""
    t = request(frames=1)
    assert assembly(t).drain() is None
    assert len(t.runs[0].frames) == 1


def test_steps_without_a_frame_hook_still_show() -> None:
    """An upstream that renamed the frame's function costs the frame's exact start, not its steps."""
    t = request()
    t.runs[0].frames.clear()
    lines = tree(finish(t))
    assert next(line for line in lines if "vibevoice.frame " in line).startswith("vibevoice.frame 11-21")
    assert sum("diffusion.step" in line for line in lines) == 4


def test_steps_without_set_timesteps_begin_with_their_frame() -> None:
    """Without that hook the first step of a frame begins at the frame's start."""
    t = request()
    t.runs[0].bases.clear()
    steps = [line.split(" ")[1] for line in tree(finish(t)) if "diffusion.step" in line]
    assert steps == ["10-13", "13-15", "20-23", "23-25"]


def test_a_prefill_in_mid_stream_belongs_to_the_generation() -> None:
    """Each text window's prefill is a child of vibevoice.generate and counts on."""
    t = request()
    t.runs[0].leaves[Leaf.PREFILL].extend((18 * MS, 19 * MS))
    windows = [line for line in tree(finish(t)) if "prefill " in line]
    assert windows == ["vibevoice.prefill 8-10 8<1 prefill.window=0", "vibevoice.prefill 18-19 9<1 prefill.window=1"]


def test_work_after_the_listener_left_is_told() -> None:
    """Frames and time spent for nobody stand on the request's span."""
    t = request(frames=3)
    t.cancelled, t.service_closed = 21 * MS, None
    root = finish(t).operation(semconv.SYNTHESIZE)
    assert root is not None
    assert root.attributes["vibevoice.after_disconnect.frames"] == 2
    assert root.attributes["vibevoice.after_disconnect.duration"] == pytest.approx(0.019)
    assert root.attributes["vibevoice.status"] == "cancelled"


def test_defective_frames_are_named() -> None:
    """A silent, a not-a-number and a clipped frame are counted and marked on their frame spans."""
    t = request(frames=4)
    t.audio_low[1] = t.audio_high[1] = 0.0
    t.audio_low[2] = float("nan")
    t.audio_high[3] = 1.5
    t.nan, t.silent = 1, 1
    batch = finish(t)
    assert batch.defects == {"silent": 1, "nan": 1, "clipped": 1}
    frames = batch.block(semconv.FRAME)
    assert frames is not None
    assert frames.attributes["vibevoice.frame.defect"].tolist() == ["", "silent", "nan", "clipped"]  # type: ignore[union-attr]


def test_a_look_takes_no_defect_from_its_frame() -> None:
    """A chunk was heard before its frame was complete; somebody looks at the request meanwhile, and the frame's record
    names the defect.
    """
    t = request(frames=3)
    t.audio_low[2] = t.audio_high[2] = 0.0
    made = assembly(t)
    drained = made.drain()
    assert drained is not None
    seen = made.peek(t.runs[0].frames[-1] + 9 * MS)
    assert seen is not None
    assert seen.block(semconv.FRAME) is not None
    frames = made.finish(end=t.web_closed or 0).block(semconv.FRAME)
    assert frames is not None
    assert frames.attributes[semconv.FRAME_DEFECT.key].tolist() == ["silent"]  # type: ignore[union-attr]


def test_an_open_request_at_shutdown_ends_as_error() -> None:
    """Facts noted after the end are left out, so that nothing lies outside the request."""
    t = request(frames=3)
    t.runs[0].end = t.work_end = t.web_closed = t.service_closed = None
    batch = assembly(t).finish(end=25 * MS, shutdown=True)
    assert (batch.status, batch.error_type) == (semconv.Status.ERROR, "shutdown")
    assert max(int(block.end.max()) for block in batch.blocks) <= 25 * MS


@pytest.mark.parametrize(
    ("asked", "named"), [("en-Carter_man", "en-Carter_man"), ("en-Nobody", "other"), (None, "other")]
)
def test_a_request_that_no_voice_spoke_names_the_one_of_its_counters(asked: str | None, named: str) -> None:
    """A rejected request's span has the voice that its metrics have: a search by voice finds it. What a client made up
    is 'other'.
    """
    t = Timeline(1, Anchor(wall=0, monotonic=0), 0, Asked(voice=asked))
    t.accepted, t.service_closed, t.web_closed, t.close_code = 1 * MS, 2 * MS, 2 * MS, 1013
    root = finish(t).operation(semconv.SYNTHESIZE)
    assert root is not None
    assert root.attributes[semconv.STATUS.key] == "rejected"
    assert root.attributes[semconv.VOICE.key] == named


def test_a_request_whose_records_cannot_be_made_is_told() -> None:
    """Its root alone: where it stands in the trace, how long it took, and that this is an error of ours."""
    batch = assembly(request(opened=2 * MS)).failed(40 * MS)
    (root,) = batch.operations
    assert (root.span, root.span_id, root.parent_id) == (semconv.SYNTHESIZE, 0xF00D, 0x5E)
    assert (root.start, root.end) == (2 * MS, 40 * MS)
    assert (root.attributes, root.error_type) == ({semconv.STATUS.key: "error"}, "assembler_error")
    assert (batch.final, batch.status, batch.error_type) == (True, semconv.Status.ERROR, "assembler_error")
    assert (batch.trace_id, batch.root_id, batch.server_id, batch.blocks) == (0xABC, 0xF00D, 0x5E, [])
    assert batch.sampled
    assert batch.recording


def test_a_look_changes_nothing() -> None:
    """Looks at every moment, before and behind a drain: an open request's look is not final, and the records in the end
    are those of a request that was not looked at.
    """

    def told(look: bool) -> tuple[object, ...]:
        t = request(frames=3)
        made = assembly(t)
        batches = []
        for step in (made.drain, lambda: made.finish(end=t.web_closed or 0)):
            if look:
                held = len(made._parts._intervals) if made._parts is not None else 0
                seen = made.peek(t.runs[0].frames[-1] + 9 * MS)
                assert seen is not None
                assert (seen.final, seen.status, seen.error_type) == (False, None, None)
                assert seen.blocks
                assert made._parts is None or len(made._parts._intervals) == held, "looks take no memory"
                assert seen.trace_id == 0xABC
            batch = step()
            assert batch is not None
            batches.append(batch)
        lines = [line for batch in batches for line in tree(batch)]
        return lines, batches[-1].operation(semconv.SYNTHESIZE), [batch.first_audio_parts for batch in batches]

    assert told(look=True) == told(look=False)


def test_a_look_while_a_batch_is_made_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In that moment frames are partly in the batch and partly still with the request; before and after, a look says
    behind how many batches it stands.
    """
    t = request(frames=3)
    made, at = assembly(t), t.runs[0].frames[-1] + 9 * MS
    audio = Assembly._audio
    seen: list[Batch | None] = []

    def looked(self: Assembly, batch: Batch) -> None:
        if self is made:
            seen.append(made.peek(at))
        audio(self, batch)

    monkeypatch.setattr(Assembly, "_audio", looked)
    before = made.peek(at)
    assert made.drain() is not None
    after = made.peek(at)
    assert seen == [None]
    assert before is not None
    assert after is not None
    assert (before.earlier, after.earlier) == (0, 1)
