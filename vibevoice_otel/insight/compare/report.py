"""``insight compare``: is B better than A, worse, no different, or can it not be told?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from vibevoice_otel.insight import stats
from vibevoice_otel.insight.compare import energy
from vibevoice_otel.insight.compare.effect import Effect, Side, TooLittle, effect
from vibevoice_otel.insight.compare.figures import BY_VOICE, FIGURES, Figure
from vibevoice_otel.insight.source import Origin, Source

#: Reads both sides of a figure.
Read = Callable[[Callable[[Source, int], Side]], tuple[Side, Side]]
Verdict = Literal["better", "worse", "no different", "cannot be told"]
#: A relative change below which two sides pass for alike, and the same for shares of requests: half of an objective's 1
#: %.
MARGIN, SHARE_MARGIN = 0.03, 0.005
#: Share of comparisons of two equal sides in which anything at all is called different; half for the figures, half for
#: the voices.
FALSE_ALARMS = 0.05
#: Blocks of time aimed at, each at least a minute.
BLOCKS, SHORTEST_BLOCK = 40, 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One figure's comparison; ``effect`` is None where it cannot be compared, and ``why`` says so."""

    name: str
    unit: str
    verdict: Verdict
    effect: Effect | None
    why: str = ""
    more: float | None = None  # requests on each side that would tell, where it cannot be told


@dataclass(frozen=True, slots=True)
class VoiceAnswer:
    """A voice that differs while nothing else of the comparison explains it."""

    voice: str
    name: str
    unit: str
    verdict: Verdict
    effect: Effect


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole answer. ``verdict``: worse where anything is worse; no different only where every objective's figure
    is.
    """

    a: str
    b: str
    origin_a: Origin
    origin_b: Origin
    verdict: Verdict
    confidence: float
    margin: float
    answers: list[Answer] = field(default_factory=list)
    voices: list[VoiceAnswer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A side: its source and what people call it."""

    source: Source
    name: str


def compare(
    a: Labelled, b: Labelled, *, margin: float = MARGIN, paired: bool = False, shortest_block: float = SHORTEST_BLOCK
) -> Comparison:
    """Compare ``b`` with ``a`` in every figure that both have.

    Args:
        a: before, or the stable version.
        b: after, or the canary.
        margin: a relative change that does not matter.
        paired: both sides cover the same time, so that what slows both at once cancels.
        shortest_block: seconds; at least four scrapes, and longer than requests wait for one another.

    Raises:
        SourceError: when a source cannot be read.
        ValueError: when ``margin`` is not between 0 and 1.
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin {margin!r}: allowed is a share between 0 and 1, such as 0.03")
    shortest = min(each.source.origin.window or 0.0 for each in (a, b))
    blocks = int(max(1, min(BLOCKS, shortest // shortest_block)))
    read: Read = cache(lambda of: (of(a.source, blocks), of(b.source, blocks)))  # what two figures share is read once
    sides = [(figure, *read(figure.read)) for figure in FIGURES]
    present = [
        (figure, one, two, _refused(figure, one, two, margin)) for figure, one, two in sides if one.strata or two.strata
    ]
    tests = sum(bool(one.strata and two.strata and not why) for _, one, two, why in present)
    confidence = 1 - FALSE_ALARMS / 2 / max(tests, 1)
    answers = {
        figure: Answer(figure.name, figure.unit, "cannot be told", None, why)
        if why
        else _answer(figure, one, two, confidence, margin, paired)
        for figure, one, two, why in present
    }
    voices = _voices(read, margin, paired)
    return Comparison(
        a.name, b.name, a.source.origin, b.source.origin, _overall([*answers.values(), *voices]), 1 - FALSE_ALARMS,
        margin, list(answers.values()), voices, _notes(answers),
    )  # fmt: skip


def _refused(figure: Figure, one: Side, two: Side, margin: float) -> str:
    """Why the two sides cannot be held against each other; empty where they can."""
    if figure.check is not None:
        try:
            figure.check(one, two, margin)
        except TooLittle as little:
            return str(little)
    return ""


def _answer(figure: Figure, one: Side, two: Side, confidence: float, margin: float, paired: bool) -> Answer:
    try:
        found = effect(one, two, scale=figure.scale, quantile=figure.quantile, confidence=confidence, paired=paired)
    except TooLittle as little:
        return Answer(figure.name, figure.unit, "cannot be told", None, str(little))
    allowed = _margin(figure, margin)
    verdict = _verdict(found, allowed)
    more = None
    if verdict == "cannot be told":
        wide = max(found.high - found.change, found.change - found.low)  # shrinks with the root of the requests
        more = math.ceil(max(found.n_a, found.n_b) * (wide / allowed) ** 2)
    return Answer(figure.name, figure.unit, verdict, found, more=more)


def _margin(figure: Figure, margin: float) -> float:
    return margin if figure.scale == "ratio" else SHARE_MARGIN


def _verdict(found: Effect, margin: float) -> Verdict:
    if -margin < found.low and found.high < margin:
        return "no different"
    return "worse" if found.low > 0 else "better" if found.high < 0 else "cannot be told"


def _voices(read: Read, margin: float, paired: bool) -> list[VoiceAnswer]:
    """The voices that stand out, at a false discovery rate of half of FALSE_ALARMS over all voices and figures."""
    found: list[tuple[str, Figure, Effect]] = []
    for figure in BY_VOICE:
        one, two = read(figure.read)
        for voice in sorted({stratum[0] for stratum in one.strata} & {stratum[0] for stratum in two.strata}):
            with suppress(TooLittle):
                differs = effect(
                    _of(one, voice), _of(two, voice), scale=figure.scale, confidence=1 - FALSE_ALARMS / 2, paired=paired
                )
                found.append((voice, figure, differs))
    named = stats.discoveries([one.p for _, _, one in found], FALSE_ALARMS / 2)
    return [
        VoiceAnswer(voice, figure.name, figure.unit, "worse" if one.change > 0 else "better", one)
        for (voice, figure, one), stands_out in zip(found, named, strict=True)
        if stands_out and _verdict(one, _margin(figure, margin)) != "no different"
    ]


def _of(side: Side, voice: str) -> Side:
    return side.in_strata([i for i, stratum in enumerate(side.strata) if stratum[0] == voice])


def _overall(answers: Iterable[Answer | VoiceAnswer]) -> Verdict:
    verdicts = [each.verdict for each in answers if each.effect is not None]
    order: tuple[Verdict, ...] = ("worse", "better", "cannot be told")
    return next((verdict for verdict in order if verdict in verdicts), "no different" if verdicts else "cannot be told")


def _notes(answers: Mapping[Figure, Answer]) -> list[str]:
    notes = []
    told = {figure: each.effect for figure, each in answers.items() if each.effect is not None}
    least = min(told, key=lambda figure: told[figure].compared, default=None)
    if least is not None and told[least].compared < 0.9:
        notes.append(
            f"The sides serve different requests: only {told[least].compared:.0%} of those behind '{least.name}' "
            "are at a voice and setting that both sides have, and only these are compared."
        )
    coarse = [figure.name for figure in told if figure.strata == ("voice",)]
    if coarse:
        notes.append(f"Compared by voice alone, since their series carry no cfg, steps or length: {', '.join(coarse)}.")
    if any(figure.read is energy.read for figure in told):
        notes.append("Energy is all that the cards drew, given to the voices by the seconds that they generated.")
    return notes
