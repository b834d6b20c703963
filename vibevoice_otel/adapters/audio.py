"""What an audio chunk sounds like, in three numbers, without copying it or waiting for a GPU."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from vibevoice_otel.recording.timeline import Timeline
from vibevoice_otel.semconv import SILENCE_PEAK

logger = logging.getLogger(__name__)


def note_chunk(timeline: Timeline, chunk: Any) -> None:
    """Note samples, least and greatest value of a chunk (torch tensor or numpy array, any shape); skipped when it is not on the CPU."""
    try:
        _note_chunk(timeline, chunk)
    except Exception:  # a chunk of a kind we do not know is delivered all the same
        logger.debug("an audio chunk could not be measured", exc_info=True)


def _note_chunk(timeline: Timeline, chunk: Any) -> None:
    device = getattr(chunk, "device", None)
    if device is not None and getattr(device, "type", "cpu") != "cpu":
        return  # reading it would synchronise the device
    if hasattr(chunk, "aminmax"):  # torch: one pass, not-a-number shows in both
        size = int(chunk.numel())
        low, high = (float(bound) for bound in chunk.aminmax()) if size else (0.0, 0.0)
    else:
        array = np.asarray(chunk)
        size = int(array.size)
        low, high = (float(array.min()), float(array.max())) if size else (0.0, 0.0)
    timeline.audio_low.append(low)
    timeline.audio_high.append(high)
    timeline.audio_samples.append(size)
    timeline.delivered += 1
    if math.isnan(low) or math.isnan(high):
        timeline.nan += 1
    elif max(abs(low), abs(high)) < SILENCE_PEAK:
        timeline.silent += 1
    if not timeline.heard:
        _leading_silence(timeline, chunk, size, low, high)


def _leading_silence(timeline: Timeline, chunk: Any, size: int, low: float, high: float) -> None:
    if not max(abs(low), abs(high)) >= SILENCE_PEAK:
        timeline.leading_silence += size
        return
    timeline.heard = True
    samples = chunk.detach().float().numpy() if hasattr(chunk, "detach") else np.asarray(chunk)
    timeline.leading_silence += int(np.argmax(np.abs(samples.reshape(-1)) >= SILENCE_PEAK))
