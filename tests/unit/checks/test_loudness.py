"""Loudness in LUFS: the standard's own signal, the library over the whole, what is held, what it costs, and without the
library.
"""

from __future__ import annotations

import gc
import importlib
import logging
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vibevoice_otel import semconv
from vibevoice_otel.recording.checks import audio, loudness
from vibevoice_otel.recording.checks.audio import MAX_HELD, AudioChecks
from vibevoice_otel.recording.checks.loudness import Loudness
from vibevoice_otel.semconv import SAMPLE_RATE_HZ

pyloudnorm = pytest.importorskip("pyloudnorm", reason="needs the extra [loudness]")
FRAME = 3200


def speech(seconds: float) -> NDArray[np.float32]:
    """Noise whose level changes every 100 ms, from a whisper to loud: the relative gate has much to leave out."""
    rng = np.random.default_rng(21)
    level = np.repeat(10 ** rng.uniform(-3, -0.7, int(seconds * 10)), SAMPLE_RATE_HZ // 10)
    return np.asarray(level * rng.standard_normal(level.size), np.float32)


def whole(samples: NDArray[np.float32]) -> float:
    return float(pyloudnorm.Meter(SAMPLE_RATE_HZ, filter_class=loudness.FILTER).integrated_loudness(samples))


def of(samples: NDArray[np.float32], frame: int = FRAME) -> float | None:
    one = Loudness(pyloudnorm)
    for first in range(0, len(samples), frame):
        one.add(samples[first : first + frame])
    assert one.integrated() == one.integrated(), "asking changes nothing"
    return one.integrated()


def test_the_standard_s_own_signal() -> None:
    """BS.1770-4, annex 1: a sine of 997 Hz at full scale in one channel is -3.01 LUFS."""
    sine = np.sin(2 * np.pi * 997 * np.arange(SAMPLE_RATE_HZ * 4) / SAMPLE_RATE_HZ).astype(np.float32)
    assert of(sine) == pytest.approx(-3.01, abs=0.05)


@pytest.mark.parametrize("frame", [480, 3200, 48_000])
@pytest.mark.parametrize("seconds", [0.5, 0.8, 3.7, 20])
def test_windows_are_as_good_as_the_whole(seconds: float, frame: int) -> None:
    """The library over all audio at once says the same, however it was cut; a constant offset included."""
    for samples in (speech(seconds), speech(seconds) + np.float32(0.05)):
        assert of(samples, frame) == pytest.approx(whole(samples), abs=0.02)


def test_silence_has_no_loudness() -> None:
    """Nor have 300 ms of speech: a gating block is 400 ms long. Silence between speech does not count."""
    assert of(np.zeros(SAMPLE_RATE_HZ, np.float32)) is None
    assert of(speech(0.3)) is None
    half = speech(4)
    padded = np.concatenate([half, np.zeros(SAMPLE_RATE_HZ * 10, np.float32)])
    assert of(padded) == pytest.approx(whole(half), abs=0.1)


def test_no_block_reaches_across_what_was_not_checked() -> None:
    """Of 0.3 s before a chunk that is not a number, and 0.3 s after it, nothing can be said."""
    checks = AudioChecks(pyloudnorm)
    for chunk in (speech(0.3), np.full(FRAME, np.nan, np.float32), speech(0.3)):
        assert checks.take(chunk, chunk.size)
    assert semconv.AUDIO_LOUDNESS.key not in checks.attributes()


def test_two_seconds_are_held_at_most_the_window_among_them() -> None:
    """What may wait is less by a window."""
    checks = AudioChecks(pyloudnorm)
    chunk = np.zeros(FRAME, np.float32)
    taken = sum(checks.take(chunk, FRAME) for _ in range(30)) * FRAME
    assert taken + loudness.WINDOW <= MAX_HELD * SAMPLE_RATE_HZ < taken + FRAME + loudness.WINDOW
    for _ in range(30):
        checks.work()
        checks.take(chunk, FRAME)
    one: Any = checks._loudness
    assert one._rest.size < loudness.WINDOW
    assert one._rest.base is None, "a view would hold all that it was cut from"


@pytest.mark.serial
def test_what_it_costs_with_all_other_checks() -> None:
    """CPU time for each second of audio: below 1 % of a core, by far."""
    samples, checks = speech(60), AudioChecks(pyloudnorm)
    of(samples[: 2 * SAMPLE_RATE_HZ])  # the first window pays for scipy's own start
    gc.collect()
    gc.disable()  # a collection of what other tests left is no cost of the checks
    try:
        for first in range(0, len(samples), FRAME):
            checks.take(samples[first : first + FRAME], FRAME)
            checks.work()
    finally:
        gc.enable()
    share = checks._spent / 1e9 / 60
    print(f"{share * 1e6:.0f} us of CPU for each second of audio, {share:.3%} of a core")
    assert checks.skipped == 0
    assert share < audio.MAX_CPU


def test_without_the_library_there_is_a_warning_and_no_loudness(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It names the extra and the variable; all other checks go on."""

    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with caplog.at_level(logging.WARNING):
        assert loudness.library() is None
    assert "pip install 'vibevoice-otel[loudness]'" in caplog.text
    assert "VIBEVOICE_OTEL_AUDIO_LOUDNESS" in caplog.text
