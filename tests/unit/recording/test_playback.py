"""The listener's buffer, modelled."""

from __future__ import annotations

from vibevoice_otel.recording.playback import Playback

FRAME = 6400  # bytes of 133.3 ms
MS = 1_000_000


def test_a_stream_in_time_never_underruns() -> None:
    """Frames that arrive before the buffer is empty cost nothing."""
    playback = Playback()
    assert playback.play([v for i in range(10) for v in (i * 100 * MS, i * 100 * MS, FRAME)]) == 0
    assert playback.stalled_seconds == 0


def test_a_late_frame_underruns_once_and_restarts_the_buffer() -> None:
    """The silence is counted from the moment the buffer was empty; later frames in time are no further underruns."""
    playback = Playback()
    assert playback.play([0, 0, FRAME]) == 0
    assert playback.play([0, 200 * MS, FRAME, 0, 300 * MS, FRAME]) == 1
    assert round(playback.stalled_seconds, 4) == 0.0667
