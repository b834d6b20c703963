"""What one stream's audio holds that no listener wants: silence inside speech, clipping, a constant offset, the same
chunk again.
"""

from __future__ import annotations

import math
from collections import deque
from threading import Lock
from time import thread_time_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel import semconv
from vibevoice_otel.recording.checks.loudness import WINDOW as WINDOW_OF_LOUDNESS
from vibevoice_otel.recording.checks.loudness import Loudness
from vibevoice_otel.recording.records import AttributeValue
from vibevoice_otel.semconv import SAMPLE_RATE_HZ

Samples = NDArray[np.float32]
#: Seconds of a stream's audio that wait to be checked at most; what comes while they are full is not checked, and
#: counted.
MAX_HELD = 2.0
#: CPU time for each second of audio, after the first: past it chunks are skipped, and counted.
MAX_CPU = 0.01
#: Windows of 20 ms, the usual length in which the level of speech is taken, below -50 dBFS are silence.
WINDOW = SAMPLE_RATE_HZ // 50
SILENT_POWER = 10 ** (-50 / 10)
#: A sample this near to full scale is taken for clipped: a codec of 16 bit cannot tell it from full scale.
CLIPPED = 0.999
#: Two chunks are the same where no sample differs by more than PCM16's own step.
SAME = 1 / 32768


class AudioChecks:
    """The checks of one stream. ``take`` is called by the thread that delivers the audio, ``work`` by any other.

    Args:
        pyloudnorm: the library, where loudness is wanted.
    """

    def __init__(self, pyloudnorm: Any = None) -> None:
        self._loudness = None if pyloudnorm is None else Loudness(pyloudnorm)
        self._room = MAX_HELD * SAMPLE_RATE_HZ - (
            0 if pyloudnorm is None else WINDOW_OF_LOUDNESS
        )  # samples that may wait
        self._pending: deque[Any] = deque()
        self._lock = Lock()  # of what follows; the thread that delivers never takes it
        self._taken = self._done = 0  # samples; each written by one thread alone
        self.unchecked = 0  # samples that found no room
        self._late = 0  # samples skipped for want of CPU time
        self._spent = 0  # ns of CPU time
        self._heard = False
        self._quiet = self._longest_quiet = 0  # windows of silence now, and most of them between two sounds
        self._rest: Samples = np.empty(0, np.float32)  # less than a window
        self._clipped = self._repeated = self._samples = 0
        self._sum = self._power = 0.0
        self._loud = 0  # windows with sound
        self._last: Samples | None = None

    def take(self, chunk: Any, size: int) -> bool:
        """Keep a chunk of ``size`` samples until it is checked; False when too much waits already."""
        if self._taken - self._done + size > self._room:
            self.unchecked += size
            return False
        self._taken += size
        self._pending.append(chunk)
        return True

    def work(self) -> None:
        """Check what waits."""
        with self._lock:
            while self._pending:
                chunk = self._pending.popleft()
                began = thread_time_ns()
                samples = _samples(chunk)
                self._done += samples.size
                if self._spent > MAX_CPU * 1e9 * max(1.0, self._samples / SAMPLE_RATE_HZ):
                    self._late += samples.size
                    self._samples += samples.size
                    self._gap()
                    continue
                self._check(samples)
                self._spent += thread_time_ns() - began

    def _check(self, samples: Samples) -> None:
        self._samples += samples.size
        if not samples.size or not np.isfinite(samples).all():
            self._last = None
            self._gap()
            return
        if self._loudness is not None:
            self._loudness.add(samples)
        magnitude = np.abs(samples)
        self._clipped += int(np.count_nonzero(magnitude >= CLIPPED))
        self._sum += float(samples.sum(dtype=np.float64))
        last, self._last = self._last, samples
        loud = magnitude.max() >= math.sqrt(SILENT_POWER)
        if last is not None and loud and last.size == samples.size and float(np.abs(last - samples).max()) <= SAME:
            self._repeated += 1
        whole = np.concatenate((self._rest, samples)) if self._rest.size else samples
        count = whole.size // WINDOW
        windows, self._rest = whole[: count * WINDOW].reshape(count, WINDOW), whole[count * WINDOW :]
        power = np.einsum("ij,ij->i", windows, windows) / WINDOW
        sounds = np.flatnonzero(power >= SILENT_POWER)
        self._power += float(power[sounds].sum())
        self._loud += sounds.size
        if not sounds.size:
            self._quiet += count
            return
        gaps = [int(sounds[0]) + self._quiet] if self._heard else []
        gaps += (sounds[1:] - sounds[:-1] - 1).tolist()
        self._longest_quiet = max(self._longest_quiet, *gaps) if gaps else self._longest_quiet
        self._heard, self._quiet = True, count - 1 - int(sounds[-1])

    def _gap(self) -> None:
        if self._loudness is not None:
            self._loudness.gap()

    @property
    def skipped(self) -> float:
        """Seconds of audio that were not checked."""
        return (self.unchecked + self._late) / SAMPLE_RATE_HZ

    def attributes(self) -> dict[str, AttributeValue]:
        """What was found in all audio so far, for the request's span; nothing where no audio was checked."""
        self.work()
        checked = self._samples - self._late
        if not checked:
            return {}
        found: dict[str, AttributeValue] = {
            semconv.AUDIO_SILENCE.key: self._longest_quiet * WINDOW / SAMPLE_RATE_HZ,
            semconv.AUDIO_CLIPPED.key: self._clipped / checked,
            semconv.AUDIO_OFFSET.key: abs(self._sum) / checked,
            semconv.AUDIO_REPEATED.key: self._repeated,
        }
        if self._loud:
            found[semconv.AUDIO_LEVEL.key] = 10 * math.log10(self._power / self._loud)
        with self._lock:
            loudness = None if self._loudness is None else self._loudness.integrated()
        if loudness is not None:
            found[semconv.AUDIO_LOUDNESS.key] = loudness
        if self.skipped:
            found[semconv.AUDIO_UNCHECKED.key] = self.skipped
        return found


def _samples(chunk: Any) -> Samples:
    values = chunk.detach().float().numpy() if hasattr(chunk, "detach") else np.asarray(chunk)
    if values.dtype == np.int16:
        values = values / np.float32(32768)
    flat: Samples = values.astype(np.float32, copy=False).reshape(-1)
    return flat
