"""Timelines written by hand, and ids that count from 1: what makes a whole trace comparable to the letter."""

from __future__ import annotations

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.recording.assembler import Assembly
from vibevoice_otel.recording.clock import Anchor
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.labels import Bounds
from vibevoice_otel.recording.records import Batch, Ids
from vibevoice_otel.recording.timeline import Asked, Timeline
from vibevoice_otel.settings import Settings

MS = 1_000_000
FRAME_BYTES = 6400  # 133 ms of PCM16 at 24 kHz


class CountingIds:
    """1, 2, 3 ..."""

    def __init__(self) -> None:
        self._next = 1

    def take(self, count: int) -> Ids:
        first, self._next = self._next, self._next + count
        return np.arange(first, self._next, dtype=np.uint64)


def bounds(*voices: str) -> Bounds:
    known = Bounds(Settings())
    known.learn_voices(voices or ("en-Carter_man",))
    return known


def assembly(timeline: Timeline, *, sampled: bool = True) -> Assembly:
    return Assembly(timeline, 0xABC, 0xF00D, 0x5E, bounds(), CountingIds(), sampled=sampled, recording=sampled)


def request(frames: int = 2, steps: int = 2, *, opened: int = 0) -> Timeline:
    """A request as a healthy service makes it; every moment is a whole millisecond.

    accept 1, work 3, voice 3-5, preprocess 5-6, generate 7; prefill 8-10; each frame takes 10 ms: sampling entry, base
    1 ms later, steps 2 ms apart, decode right after the last step for 1 ms; sent 1 ms later; the language model's
    passes fill the rest.
    """
    t = Timeline(
        1,
        Anchor(wall=0, monotonic=0),
        opened,
        Asked(voice="en-Carter_man", cfg="1.5", steps=str(steps), text_length=12),
    )
    t.used.voice, t.used.cfg, t.used.steps, t.used.model = "en-Carter_man", 1.5, steps, "tiny"
    t.accepted, t.work_start = opened + 1 * MS, opened + 3 * MS
    t.note(semconv.QUEUE, t.accepted, t.work_start)
    t.note(
        semconv.VOICE_LOAD,
        opened + 3 * MS,
        opened + 5 * MS,
        **{semconv.CACHE.key: "miss", semconv.VOICE.key: "en-Carter_man"},
    )
    t.note(semconv.PREPROCESS, opened + 5 * MS, opened + 6 * MS, **{semconv.CACHE.key: "miss"})
    run = t.free.pop()
    run.start = opened + 7 * MS
    run.leaves[Leaf.PREFILL].extend((opened + 8 * MS, opened + 10 * MS))
    at = opened + 10 * MS
    for _ in range(frames):
        add_frame(t, at, steps)
        at += 10 * MS
    run.end = at
    t.work_end = t.service_closed = at + 1 * MS
    t.web_closed, t.close_code = at + 2 * MS, 1000
    return t


def add_frame(t: Timeline, at: int, steps: int) -> None:
    run = t.runs[-1]
    run.frames.append(at)
    run.bases.append(at + 1 * MS)
    run.steps.extend(at + (3 + 2 * step) * MS for step in range(steps))
    decoded = at + (2 + 2 * steps) * MS
    run.leaves[Leaf.DECODE].extend((decoded - 1 * MS, decoded))
    run.leaves[Leaf.LM_POSITIVE].extend((decoded, decoded + 1 * MS))
    run.leaves[Leaf.LM_NEGATIVE].extend((decoded + 1 * MS, decoded + 2 * MS))
    t.puts.append(decoded)
    t.audio_low.append(-0.5)
    t.audio_high.append(0.5)
    t.audio_samples.append(FRAME_BYTES // 2)
    t.delivered += 1
    sent = decoded + 1 * MS
    t.first_send = t.first_send or sent
    t.sends.extend((decoded, sent, FRAME_BYTES))


def finish(timeline: Timeline) -> Batch:
    moments = (timeline.web_closed, timeline.generate_end, timeline.work_end)
    return assembly(timeline).finish(end=max(m for m in moments if m is not None))


def tree(batch: Batch) -> list[str]:
    """Every record as ``name start-end (ms) id<parent {attributes}``, sorted by time,
    then by length (longest first).
    """
    lines: list[tuple[int, int, str]] = []
    for op in batch.operations:
        attributes = "" if op.span is semconv.SYNTHESIZE else _text(op.attributes)
        error = f" !{op.error_type}" if op.error_type else ""
        lines.append(
            (
                op.start,
                -op.end,
                f"{op.span} {op.start / MS:g}-{op.end / MS:g} {op.span_id}<{op.parent_id}{attributes}{error}",
            )
        )
    for block in batch.blocks:
        for row in range(len(block)):
            attributes = {
                k: v if isinstance(v, str | int | float | bool) else v.tolist()[row]
                for k, v in block.attributes.items()
            }
            start, end = int(block.start[row]), int(block.end[row])
            lines.append(
                (
                    start,
                    -end,
                    (
                        f"{block.span} {start / MS:g}-{end / MS:g} "
                        f"{block.span_id[row]}<{block.parent_id[row]}{_text(attributes)}"
                    ),
                )
            )
    return [line for _, _, line in sorted(lines)]


def _text(attributes: dict[str, object]) -> str:
    return "".join(f" {key.removeprefix('vibevoice.')}={value}" for key, value in sorted(attributes.items()))
