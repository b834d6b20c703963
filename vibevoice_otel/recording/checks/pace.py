"""Characters for each second of audio, held against what is usual for the voice."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field

from vibevoice_otel.semconv import Suspect

#: No verdict before so many requests of the voice since its model changed.
ENOUGH = 50
#: So many of a voice's latest requests say what is usual.
KEPT = 200
#: The spread is computed anew after so many requests.
RENEWED = 10
#: Shorter texts vary too much: a pause more is a third of their audio.
MIN_CHARACTERS = 20
#: Robust standard deviations from the median. Of normally distributed paces one in 1.7 million lies beyond 5.
FAR = 5.0
#: A voice never spreads less than this, in natural logarithms: 4 %.
LEAST_SPREAD = 0.04
#: So many times as long as usual, or as short, is no matter of pace: something was said again, or left out.
TIMES = 1.5
#: Median absolute deviation to standard deviation, of a normal distribution.
ROBUST = 1.4826
#: Voices that are remembered at most.
MAX_VOICES = 1000


@dataclass(slots=True)
class _Usual:
    """The latest paces of one voice, as natural logarithms of characters a second."""

    model: str
    latest: deque[float] = field(default_factory=deque)
    ordered: list[float] = field(default_factory=list)
    spread: float = 0.0
    seen: int = 0

    @property
    def median(self) -> float:
        return self.ordered[len(self.ordered) // 2]

    def add(self, pace: float) -> None:
        self.seen += 1
        self.latest.append(pace)
        insort(self.ordered, pace)
        if len(self.latest) > KEPT:
            del self.ordered[bisect_left(self.ordered, self.latest.popleft())]
        if self.seen % RENEWED == 0:
            middle = self.median
            self.spread = ROBUST * sorted(abs(each - middle) for each in self.ordered)[len(self.ordered) // 2]


class Paces:
    """What is usual for each voice. A voice name carries its language, so a voice is judged within its own."""

    def __init__(self) -> None:
        self._voices: dict[str, _Usual] = {}

    def judge(self, voice: str, model: str, characters: int, seconds: float) -> Suspect | None:
        """A verdict on speech of ``characters`` that lasts ``seconds``, by what came before; it then counts itself.

        Args:
            voice: bounded.
            model: name and revision; a change forgets what was usual.
            characters: of the text.
            seconds: of audio, without leading silence.
        """
        if characters < MIN_CHARACTERS or seconds <= 0:
            return None
        usual = self._voices.get(voice)
        if usual is None or usual.model != model:
            if usual is None and len(self._voices) >= MAX_VOICES:
                return None
            usual = self._voices[voice] = _Usual(model)
        pace = math.log(characters / seconds)
        verdict = _verdict(pace - usual.median, max(usual.spread, LEAST_SPREAD)) if usual.seen >= ENOUGH else None
        usual.add(pace)
        return verdict


def _verdict(distance: float, spread: float) -> Suspect | None:
    if abs(distance) <= FAR * spread:
        return None
    if abs(distance) < math.log(TIMES):
        return Suspect.PACE
    return Suspect.CUT if distance > 0 else Suspect.LOOP
