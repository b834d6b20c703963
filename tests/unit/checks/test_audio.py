"""The audio itself: what is found, what it costs, and what is skipped when it costs too much."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vibevoice_otel import semconv
from vibevoice_otel.recording.checks import audio
from vibevoice_otel.recording.checks.audio import MAX_HELD, AudioChecks
from vibevoice_otel.recording.checks.judge import LIMITS
from vibevoice_otel.recording.checks.thread import Checker
from vibevoice_otel.semconv import SAMPLE_RATE_HZ, Suspect

FRAME = 3200
RNG = np.random.default_rng(21)


def speech(seconds: float, level: float = 0.1) -> NDArray[np.float32]:
    """Noise in syllables of 200 ms, a quarter of each of them silent."""
    noise = RNG.normal(0, level, int(seconds * SAMPLE_RATE_HZ)).clip(-0.9, 0.9)
    syllable = np.arange(noise.size) % (SAMPLE_RATE_HZ // 5) < SAMPLE_RATE_HZ * 3 // 20
    return (noise * syllable).astype(np.float32)


def silence(seconds: float) -> NDArray[np.float32]:
    return np.zeros(int(seconds * SAMPLE_RATE_HZ), np.float32)


def checked(samples: NDArray[Any], frame: int = FRAME) -> dict[str, Any]:
    """All checks of all samples: they cost no time here, so a collection of garbage while they run skips none."""
    checks = AudioChecks()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(audio, "thread_time_ns", lambda: 0)
        for first in range(0, len(samples), frame):
            chunk = samples[first : first + frame]
            assert checks.take(chunk, len(chunk))
            checks.work()
        return checks.attributes()


def suspects(found: dict[str, Any]) -> set[str]:
    return {suspect.value for key, (limit, suspect) in LIMITS.items() if found.get(key, 0) > limit}


def clipped(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    return (samples * 20).clip(-1, 1)


def stuck(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([samples[: 10 * FRAME], *[samples[9 * FRAME : 10 * FRAME]] * 3, samples[10 * FRAME :]])


DEFECTS = {
    Suspect.SILENCE: lambda s: np.concatenate([s, silence(2.5), s]),
    Suspect.CLIPPING: clipped,
    Suspect.OFFSET: lambda s: s + np.float32(0.02),
    Suspect.REPETITION: stuck,
}


@pytest.mark.parametrize("kind", [*DEFECTS, None], ids=str)
def test_rates_on_a_simulated_truth(kind: Suspect | None) -> None:
    """Of 40 streams of 4 s with one defect, or none, at levels from -40 to -12 dBFS: how many show it, and how many
    anything else.
    """
    hits = alarms = 0
    for level in np.linspace(0.01, 0.25, 40):
        samples = speech(4, float(level))
        found = suspects(checked(samples if kind is None else DEFECTS[kind](samples)))
        hits += kind is not None and kind.value in found
        alarms += bool(found - ({kind.value} if kind is not None else set()))
    print(f"{kind}: found {hits} of 40, anything else {alarms} of 40")
    assert alarms == 0
    assert kind is None or hits >= (38 if kind is not Suspect.CLIPPING else 34)  # -40 dBFS times 20 hardly clips


def test_figures() -> None:
    """A pause of 0.8 s between two sounds, silence before the first and after the last left out; the level of what
    sounds.
    """
    tone = (0.1 * np.sin(np.arange(SAMPLE_RATE_HZ) * 0.3)).astype(np.float32)
    found = checked(np.concatenate([silence(3), tone, silence(0.8), tone, silence(3)]))
    assert found[semconv.AUDIO_SILENCE.key] == pytest.approx(0.8, abs=0.02)
    assert found[semconv.AUDIO_LEVEL.key] == pytest.approx(20 * np.log10(0.1 / np.sqrt(2)), abs=0.2)


def test_the_clipped_share_is_a_share() -> None:
    """A square wave at full scale for a quarter of the time."""
    square = np.where(np.arange(SAMPLE_RATE_HZ) % 40 < 20, 1.0, -1.0).astype(np.float32)
    found = checked(np.concatenate([square, np.tile(square * 0.5, 3)]))
    assert found[semconv.AUDIO_CLIPPED.key] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("frame", [100, 480, 3200, 7777])
def test_the_same_whatever_the_chunks(frame: int) -> None:
    """Silence, clipping, offset and level do not depend on how the audio was cut."""
    samples = np.concatenate([speech(2), silence(0.5), clipped(speech(1))])
    whole, cut = checked(samples, SAMPLE_RATE_HZ), checked(samples, frame)
    for key in (
        semconv.AUDIO_SILENCE.key,
        semconv.AUDIO_CLIPPED.key,
        semconv.AUDIO_OFFSET.key,
        semconv.AUDIO_LEVEL.key,
    ):
        assert cut[key] == pytest.approx(whole[key], abs=1e-5)


@pytest.mark.parametrize(
    "chunk",
    [
        torch.zeros(1, 1, FRAME),
        torch.zeros(FRAME, dtype=torch.bfloat16),
        np.zeros(FRAME, np.int16),
        np.zeros(0),
        np.full(FRAME, np.nan),
    ],
    ids=["batch", "bfloat16", "int16", "empty", "nan"],
)
def test_every_kind_of_chunk(chunk: Any) -> None:
    """Tensors of any shape and type, 16 bit integers, nothing, not-a-number: none breaks the checks or shows a flaw."""
    checks = AudioChecks()
    assert checks.take(chunk, FRAME)
    assert not suspects(checks.attributes())


def test_at_most_two_seconds_are_held() -> None:
    """What comes while nobody checks is dropped past 2 s, and told."""
    checks = AudioChecks()
    taken = [checks.take(speech(FRAME / SAMPLE_RATE_HZ), FRAME) for _ in range(30)]
    assert sum(taken) == int(MAX_HELD * SAMPLE_RATE_HZ) // FRAME
    assert checks.attributes()[semconv.AUDIO_UNCHECKED.key] == pytest.approx((30 - sum(taken)) * FRAME / SAMPLE_RATE_HZ)
    assert checks.take(speech(0.1), 2400), "there is room again"


def test_checks_that_take_too_long_skip_and_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where a chunk takes a hundred times as long, the share of a core stays bounded."""
    clock = iter(range(0, 10**12, 10_000_000))  # 10 ms for each
    monkeypatch.setattr(audio, "thread_time_ns", lambda: next(clock))
    checks = AudioChecks()
    for _ in range(60):
        checks.take(speech(FRAME / SAMPLE_RATE_HZ), FRAME)
        checks.work()
    seconds = 60 * FRAME / SAMPLE_RATE_HZ
    assert checks._spent / 1e9 <= audio.MAX_CPU * seconds + 0.02
    assert 0 < checks.skipped < seconds


def test_the_time_that_checks_may_take_grows_with_the_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 ms for each chunk of 0.1 s: three are checked of the first second's allowance, then one for each 0.4 s more."""
    clock = iter(range(0, 10**12, 4_000_000))
    monkeypatch.setattr(audio, "thread_time_ns", lambda: next(clock))
    checks, size = AudioChecks(), SAMPLE_RATE_HZ // 10
    checked = []
    for _ in range(24):
        before = checks.skipped
        assert checks.take(speech(0.1), size)
        checks.work()
        checked.append(checks.skipped == before)
    assert checks._spent / 1e9 == pytest.approx(sum(checked) * 0.004)
    assert [number for number, done in enumerate(checked) if done] == [0, 1, 2, 12, 16, 20]


def test_what_waits_is_skipped_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the time is over every chunk that waits is skipped and counted, and there is room again."""
    clock = iter(range(0, 10**12, 20_000_000))
    monkeypatch.setattr(audio, "thread_time_ns", lambda: next(clock))
    checks, size = AudioChecks(), SAMPLE_RATE_HZ // 10
    for _ in range(5):
        assert checks.take(speech(0.1), size)
    checks.work()
    assert checks.skipped == pytest.approx(0.4)
    assert all(checks.take(speech(0.1), size) for _ in range(20))


@pytest.mark.serial
def test_what_the_checks_cost() -> None:
    """All checks together, CPU time for each second of audio: below 1 % of a core, by far."""
    samples = speech(60)
    checks = AudioChecks()
    gc.collect()
    for first in range(0, len(samples), FRAME):
        checks.take(samples[first : first + FRAME], FRAME)
        checks.work()
    share = checks._spent / 1e9 / 60
    print(f"{share * 1e6:.0f} us of CPU for each second of audio, {share:.3%} of a core")
    assert checks.skipped == 0
    assert share < audio.MAX_CPU


def test_another_thread_does_the_work() -> None:
    """The thread that delivers only keeps a reference; the checks' own thread empties what waits,
    and ends when told.
    """
    checker, checks = Checker(), AudioChecks()
    checks.take(speech(0.5), 12_000)
    checker.note(checks)
    deadline = time.monotonic() + 60
    while checks._done < 12_000:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert checker._thread is not None
    checker.stop()
    checker._thread.join(60)
    assert not checker._thread.is_alive()
