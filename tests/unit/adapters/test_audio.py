"""What is noted of an audio chunk."""

from __future__ import annotations

import torch

from vibevoice_otel.adapters.shared.audio import note_chunk
from vibevoice_otel.recording.clock import Anchor, now
from vibevoice_otel.recording.timeline import Timeline


def test_a_chunk_on_a_device_is_counted_by_its_shape() -> None:
    """Its samples are in no memory that can be read without waiting; how many they are is known all the same."""
    timeline = Timeline(1, Anchor.take(), now())
    note_chunk(timeline, torch.empty((1, 1, 3200), device="meta"))
    note_chunk(timeline, torch.full((1, 1, 3200), 0.5))
    assert timeline.audio_samples == [3200, 3200]
    assert (timeline.delivered, timeline.silent, timeline.nan) == (2, 0, 0)
    assert [low > high for low, high in zip(timeline.audio_low, timeline.audio_high, strict=True)] == [True, False]
