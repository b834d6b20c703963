"""The listener's buffer, modelled, and the cadence of what reaches it."""

from __future__ import annotations

import numpy as np
import pytest

from vibevoice_otel.recording.playback import Cadence, Playback

FRAME = 6400  # bytes of 133.3 ms
MS = 1_000_000


def arrivals(*moments: int) -> list[int]:
    """Sends of a frame each that return at these milliseconds, a millisecond after they began."""
    return [value for moment in moments for value in ((moment - 1) * MS, moment * MS, FRAME)]


def test_a_stream_in_time_never_underruns() -> None:
    """Frames that arrive before the buffer is empty cost nothing."""
    playback = Playback()
    assert playback.play(arrivals(*range(0, 1000, 100))) == 0
    assert playback.stalled_seconds == playback.worst_gap == 0


def test_a_late_frame_underruns_once_and_restarts_the_buffer() -> None:
    """The silence is counted from the moment the buffer was empty; later frames in time are no further underruns."""
    playback = Playback()
    assert playback.play(arrivals(0)) == 0
    assert playback.play(arrivals(200, 300)) == 1
    assert playback.stalled_seconds == pytest.approx(0.0667, abs=1e-4)


def test_the_worst_gap_is_the_longest_single_silence() -> None:
    """Two silences of 66.7 and 166.7 ms: the sum is the stalled time, the longer one the worst gap."""
    playback = Playback()
    assert playback.play(arrivals(0, 200, 500)) == 2
    assert playback.worst_gap == pytest.approx(0.1667, abs=1e-4)
    assert playback.stalled_seconds == pytest.approx(0.2333, abs=1e-4)


def test_a_listener_who_gathers_audio_first_hears_shorter_gaps() -> None:
    """With two frames gathered the same stream has one gap of 33.3 ms in place of two: playing starts at 200 and lasts
    to 466.7.
    """
    playback = Playback(ahead=0.2)
    assert playback.play(arrivals(0)) == 0
    assert not playback.started
    assert playback.play(arrivals(200, 500)) == 1
    assert playback.worst_gap == pytest.approx(0.0333, abs=1e-4)


@pytest.mark.parametrize(("left", "gap"), [(100, 0.0), (433, 0.3)])
def test_a_stream_that_is_given_up_counts_the_silence_before(left: int, gap: float) -> None:
    """Whoever leaves while audio plays has heard no gap; after it ran out, the silence until then is one."""
    playback = Playback()
    playback.play(arrivals(0))
    assert playback.give_up(left * MS) == (1 if gap else 0)
    assert playback.worst_gap == pytest.approx(gap, abs=1e-3)


def test_cadence_is_the_same_however_the_sends_are_divided() -> None:
    """Intervals and jitter of a stream that is drained in pieces equal those of one that is read at once."""
    sends = np.array(arrivals(1, 101, 231, 301, 451)).reshape(-1, 3)
    whole, parts = Cadence(), Cadence()
    found = np.concatenate(
        [parts.take(sends[:1]), parts.take(sends[1:1]), parts.take(sends[1:3]), parts.take(sends[3:])]
    )
    assert found.tolist() == whole.take(sends).tolist() == [0.1, 0.13, 0.07, 0.15]
    assert parts.jitter == pytest.approx(whole.jitter) == pytest.approx((0.03 + 0.06 + 0.08) / 3)
    assert parts.longest_send == 1 * MS


def test_one_send_has_no_cadence() -> None:
    """An interval needs two sends, a jitter three; what was not measured is absent."""
    cadence = Cadence()
    assert len(cadence.take(np.array(arrivals(1)).reshape(-1, 3))) == 0
    assert cadence.jitter is None
