"""The parts of the first-audio latency add up to it, to the nanosecond."""

from __future__ import annotations

import pytest

from vibevoice_otel.recording.first_audio import FirstAudioParts
from vibevoice_otel.semconv import Part

Interval = tuple[int, int, str]
DECODED = (10, 20, Part.DECODE)
CASES: dict[str, tuple[list[Interval], int, int, dict[str, int]]] = {
    "nothing is known": ([], 3, 10, {Part.OTHER: 7}),
    "all in its order": (
        [(0, 4, Part.QUEUE), (6, 10, Part.PREFILL), DECODED],
        0,
        25,
        {Part.QUEUE: 4, Part.OTHER: 2, Part.PREFILL: 4, Part.DECODE: 10, Part.DELIVERY: 5},
    ),
    "two gaps": (
        [(2, 4, Part.QUEUE), (7, 9, Part.PREFILL)],
        0,
        9,
        {Part.OTHER: 5, Part.QUEUE: 2, Part.PREFILL: 2},
    ),
    "the earlier keeps the time": ([(0, 8, Part.PREFILL), (4, 10, Part.LM)], 0, 10, {Part.PREFILL: 8, Part.LM: 2}),
    "one inside another": ([(0, 8, Part.PREFILL), (2, 4, Part.LM)], 0, 8, {Part.PREFILL: 8}),
    "it began before the request": ([(0, 8, Part.MODEL_LOAD)], 5, 10, {Part.MODEL_LOAD: 3, Part.OTHER: 2}),
    "it was over before the request": ([(0, 3, Part.MODEL_LOAD)], 5, 10, {Part.OTHER: 5}),
    "sent before a decode was seen to end": ([DECODED], 0, 15, {Part.OTHER: 10, Part.DECODE: 5}),
    "decoded before the request": ([DECODED], 22, 30, {Part.DELIVERY: 8}),
    "work goes on behind the first decode": (
        [DECODED, (18, 30, Part.LM)],
        10,
        30,
        {Part.DECODE: 10, Part.DELIVERY: 10},
    ),
    "the second decode is of no interest": (
        [DECODED, (30, 40, Part.DECODE)],
        10,
        45,
        {Part.DECODE: 10, Part.DELIVERY: 25},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_parts_add_up(name: str) -> None:
    """Each nanosecond is in one part, every part is told."""
    intervals, begun, sent, expected = CASES[name]
    parts = FirstAudioParts()
    parts.add(intervals)
    found = parts.divide(begun, sent)
    assert found == {part: expected.get(part, 0) / 1e9 for part in Part.ALL}
    assert sum(expected.values()) == sent - begun
