"""What an audio chunk sounds like, in three numbers, without copying it or waiting for a GPU."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vibevoice_otel.recording.timeline import Timeline
from vibevoice_otel.semconv import SILENCE_PEAK

logger = logging.getLogger(__name__)
#: Least and greatest value of samples that were not read.
UNREAD = (math.inf, -math.inf)
#: Arguments of ``generate`` that take each frame's audio as it is made.
STREAMERS = ("audio_streamer", "streamer")


def note_chunk(timeline: Timeline, chunk: Any) -> int:
    """Note samples, least and greatest value of a chunk (torch tensor or numpy array, any shape); on a device only how
    many.

    Returns:
        Its samples; 0 for a chunk of a kind that is not known.
    """
    low = high = 0.0
    try:
        if hasattr(chunk, "aminmax"):  # torch: one pass
            size: int = chunk.numel()
            if not chunk.is_cpu:  # reading it would synchronise the device; its size is known
                low, high = UNREAD
            elif size:
                least, greatest = chunk.aminmax()
                low, high = least.item(), greatest.item()
        else:
            flat = np.asarray(chunk).reshape(-1)
            size = flat.size
            if size:  # the place of an extreme is found in a third of the time that the extreme is
                low, high = flat.item(flat.argmin()), flat.item(flat.argmax())
        timeline.audio_low.append(low)
        timeline.audio_high.append(high)
        timeline.audio_samples.append(size)
        timeline.delivered += 1
        if low > high:
            return size
        if timeline.checks is not None and timeline.check is not None and timeline.checks.take(chunk, size):
            timeline.check(timeline.checks)
        # Not-a-number shows in both, by either way, and is above nothing.
        if not (high >= SILENCE_PEAK or low <= -SILENCE_PEAK):
            if math.isnan(low):
                timeline.nan += 1
            else:
                timeline.silent += 1
        if not timeline.heard:
            _leading_silence(timeline, chunk, size, low, high)
    except Exception:  # a chunk of a kind we do not know is delivered all the same
        logger.debug("an audio chunk could not be measured", exc_info=True)
        return 0
    return size


def returned(kwargs: Mapping[str, Any], result: Any) -> int | None:
    """Samples that a generation hands back in its ``result``; None where that does not say, or a streamer of the
    program's own had all of them.

    Upstream finishes a window of frames past the end of speech: its AudioStreamer drops those, and the result has none
    of them.
    """
    outputs = getattr(result, "speech_outputs", None)
    given = [each for each in map(kwargs.get, STREAMERS) if each is not None]
    if not isinstance(outputs, list | tuple) or not all(hasattr(each, "finished_flags") for each in given):
        return None
    try:
        return sum(int(math.prod(each.shape)) for each in outputs if each is not None)
    except Exception:  # samples of a kind we do not know
        logger.debug("the audio that a generation returned could not be counted", exc_info=True)
        return None


def _leading_silence(timeline: Timeline, chunk: Any, size: int, low: float, high: float) -> None:
    if not max(abs(low), abs(high)) >= SILENCE_PEAK:
        timeline.leading_silence += size
        return
    timeline.heard = True
    samples = chunk.detach().float().numpy() if hasattr(chunk, "detach") else np.asarray(chunk)
    timeline.leading_silence += int(np.argmax(np.abs(samples.reshape(-1)) >= SILENCE_PEAK))
