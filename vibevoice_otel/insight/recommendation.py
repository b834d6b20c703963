"""Which steps and cfg to use: the best quality that was seen to keep the objective and the listener's buffer fed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight import stats
from vibevoice_otel.insight.cells import Cell, Setting, by_voice, read_cells, total
from vibevoice_otel.insight.source import Origin, Source

#: The realtime server's own. Its cfg is the target for every text: a measurement of the realtime checkpoint by speech
#: recognition found syllable loops from 1.1 to 1.4 and exact speech from 1.5 to 1.8 (wildminder/ComfyUI-VibeVoice).
DEFAULT_STEPS = 5
DEFAULT_CFG = 1.5
Preference = Literal["model", "long-text"]
#: What ``prefer="long-text"`` aims at for long texts: advice given for VibeVoice in general, which that measurement
#: contradicts for the realtime checkpoint.
CFG_FOR_LONG_TEXT = 1.3
_STEPS_WORTH = (
    0.5  # twice the steps make up for a cfg this far from the one preferred; every further doubling shows less
)


@dataclass(frozen=True, slots=True)
class Rails:
    """What is never recommended, however good it looks. ``sure``: the probability with which the objectives must be
    met.
    """

    steps: tuple[int, int] = (2, 50)
    cfg: tuple[float, float] = (1.0, 3.0)
    least_requests: int = 20
    slo_seconds: float = semconv.SLO_FIRST_AUDIO_SECONDS
    slo_ratio: float = semconv.SLO_FIRST_AUDIO_RATIO
    slowest: float = 0.9  # real-time factor: a tenth of the time is kept in hand
    success_ratio: float = semconv.SLO_SUCCESS_RATIO
    sure: float = 0.9
    prefer: Preference = "model"  # "long-text": a cfg of 1.3 for long texts

    def __post_init__(self) -> None:
        if self.prefer not in get_args(Preference):
            raise ValueError(f"prefer {self.prefer!r}: allowed are {', '.join(get_args(Preference))}")
        if not (1 <= self.steps[0] <= self.steps[1] and 0 < self.cfg[0] <= self.cfg[1]):
            raise ValueError(
                f"steps {self.steps} and cfg {self.cfg}: allowed are (least, most) with steps from 1 and cfg above 0"
            )
        if not all(0 < share < 1 for share in (self.slo_ratio, self.success_ratio, self.sure)):
            raise ValueError("slo_ratio, success_ratio and sure: allowed are shares between 0 and 1")
        if not (self.slo_seconds > 0 and self.slowest > 0 and self.least_requests >= 1):
            raise ValueError("slo_seconds, slowest and least_requests: allowed are positive numbers")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A setting that was seen, and how sure it is to do. Probabilities are 0..1; ``verdict`` says it in words."""

    steps: int
    cfg: float
    requests: float
    basis: str
    in_time: float | None  # P(first audio meets its objective)
    fed: float | None  # P(generation is fast enough for all but the objective's share of requests)
    sound: float | None  # P(requests fail no more than allowed)
    suits: bool
    verdict: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    """``meets``: True, the setting was seen to do; False, none was, and this is the least bad; None,
    nothing to go by.
    """

    steps: int
    cfg: float
    meets: bool | None
    reason: str
    voice: str | None
    text_length_range: str
    candidates: list[Candidate] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    origin: Origin | None = None


def recommend(
    source: Source, *, text_length: int, voice: str | None = None, rails: Rails | None = None
) -> Recommendation:
    """The setting for a text of ``text_length`` characters.

    Raises:
        SourceError: when the source cannot be read.
        ValueError: when ``text_length`` is negative.
    """
    if text_length < 0:
        raise ValueError(f"text_length={text_length}: allowed is a number of characters from 0")
    rails = rails or Rails()
    cells = list(read_cells(source).values())
    answer = choose(cells, semconv.text_length_range(text_length), voice, rails)
    minutes = by_voice(source, semconv.AUDIO_PRODUCED.prometheus)
    underruns = by_voice(source, semconv.UNDERRUN.prometheus)
    of = [voice] if voice in minutes else list(minutes)
    estimate = stats.rate(sum(underruns.get(v, 0.0) for v in of), sum(minutes[v] for v in of) / 60)
    if estimate is not None and estimate.value > 0:
        whose = voice if voice in minutes else "all voices"
        answer.notes.append(
            f"Listeners of {whose} ran out of audio {estimate.value:.2f} times a minute ({estimate.low:.2f} to "
            f"{estimate.high:.2f})."
        )
    return replace(answer, origin=source.origin)


def choose(cells: Sequence[Cell], length: str, voice: str | None, rails: Rails) -> Recommendation:
    """Decide from cells already read: pure, so that a policy can ask for every voice at once."""
    target, why = DEFAULT_CFG, f"cfg near {DEFAULT_CFG:g}, the model's own"
    if rails.prefer == "long-text" and length == "long":
        target, why = CFG_FOR_LONG_TEXT, f"cfg near {CFG_FOR_LONG_TEXT:g}, preferred for long text"
    mine: dict[Setting, list[Cell]] = {}
    rest: dict[Setting, list[Cell]] = {}
    for cell in cells:
        (mine if voice is None or cell.voice == voice else rest).setdefault(cell.setting, []).append(cell)
    # A voice that fails alike at every setting is not mended by one: only what fails more often than its others is
    # ruled out.
    of = [c for group in (mine or rest).values() for c in group]
    ended, failed = sum(c.ended for c in of), sum(c.failed for c in of)
    common = failed / ended if ended else 0.0
    failing = max(1 - rails.success_ratio, common)
    settings = sorted({*mine, *rest})
    doubt = (1 - rails.sure) / max(len(settings), 1)  # many settings are judged at once (Bonferroni)
    candidates = [
        _judge(*numbers, mine.get(setting, []), rest.get(setting, []), length, rails, failing, doubt)
        for setting in settings
        if (numbers := setting.numbers) is not None
    ]
    candidates.sort(key=lambda c: (-_quality(c.steps, c.cfg, target), -c.steps, c.cfg))
    notes = []
    if voice is not None and not mine:
        notes.append(f"{voice} was not heard in the window: judged by all voices.")
    alike = all(c.sound is None or c.sound >= doubt for c in candidates)
    if of and alike and _sure(failed, ended, 1 - rails.success_ratio) < 1 - rails.sure:
        whose = voice if voice is not None and mine else "The service"
        notes.append(
            f"{whose} fails {common:.1%} of requests, at no setting clearly more: another setting would not mend that."
        )
    best = next((c for c in candidates if c.suits), None)
    if best is not None:
        reason = f"the best setting seen to keep up: many steps, {why} ({best.requests:.0f} requests, {best.basis})"
        notes += _untried(best, candidates, cells, rails)
        return Recommendation(best.steps, best.cfg, True, reason, voice, length, candidates, notes)
    tried = [c for c in candidates if c.in_time is not None and c.fed is not None and _within(c.steps, c.cfg, rails)]
    if tried:
        best = max(tried, key=lambda c: (math.prod(p for p in (c.in_time, c.fed, c.sound) if p is not None), -c.steps))
        reason = "no setting was seen to keep up for sure; this one is the likeliest to"
        return Recommendation(best.steps, best.cfg, False, reason, voice, length, candidates, notes)
    reason = (
        f"too little was seen for {length} text to tell (at least {rails.least_requests} requests at one setting): "
        "the server's default"
    )
    return Recommendation(DEFAULT_STEPS, DEFAULT_CFG, None, reason, voice, length, candidates, notes)


def _quality(steps: int, cfg: float, target: float) -> float:
    return math.log2(max(steps, 1)) - abs(cfg - target) / _STEPS_WORTH


def _within(steps: int, cfg: float, rails: Rails) -> bool:
    return rails.steps[0] <= steps <= rails.steps[1] and rails.cfg[0] <= cfg <= rails.cfg[1]


def _judge(
    cfg: float,
    steps: int,
    mine: Sequence[Cell],
    rest: Sequence[Cell],
    length: str,
    rails: Rails,
    failing: float,
    doubt: float,
) -> Candidate:
    basis, first = "this voice", total(c.first_audio.get(length) for c in mine)
    if (first is None or first.n < rails.least_requests) and any(length in c.first_audio for c in rest):
        basis, mine = "all voices", [*mine, *rest]
        first = total(c.first_audio.get(length) for c in mine)
    n = first.n if first else 0.0
    outside = not _within(steps, cfg, rails)
    if first is None or n < rails.least_requests or outside:
        why = (
            f"outside the guard rails (steps {rails.steps[0]} to {rails.steps[1]}, cfg {rails.cfg[0]:g} to "
            f"{rails.cfg[1]:g})"
        )
        return Candidate(
            steps,
            cfg,
            n,
            basis,
            None,
            None,
            None,
            False,
            why if outside else f"{n:.0f} seen: too few for {length} text",
        )
    spare = 1 - rails.slo_ratio
    in_time = _sure(first.above(rails.slo_seconds), n, spare)
    speed = total(c.real_time for c in mine)
    fed = _sure(speed.above(rails.slowest), speed.n, spare) if speed else None
    sound = _sure(sum(c.failed for c in mine), sum(c.ended for c in mine), failing)
    faults = []
    if in_time < rails.sure:
        faults.append(f"first audio within {rails.slo_seconds:g} s for {rails.slo_ratio:.0%} is {in_time:.0%} sure")
    if fed is None:
        faults.append("its speed was not recorded")
    elif fed < rails.sure:
        faults.append(f"a real-time factor below {rails.slowest:g} is {fed:.0%} sure")
    # Proof of 99 % success takes hundreds of requests: a setting is ruled out by proof of failing, not for want of
    # proof.
    if sound < doubt:
        faults.append(f"it fails more than {failing:.1%} of requests, {1 - sound:.0%} sure")
    return Candidate(steps, cfg, n, basis, in_time, fed, sound, not faults, "; ".join(faults) or "keeps up")


def _sure(bad: float, n: float, allowed: float) -> float:
    """Probability that the true share of bad requests is at most ``allowed``, from Jeffreys' prior."""
    from scipy.special import betainc

    return float(betainc(bad + 0.5, max(n - bad, 0.0) + 0.5, allowed))


def _untried(best: Candidate, candidates: Sequence[Candidate], cells: Sequence[Cell], rails: Rails) -> list[str]:
    """More steps than were ever seen might do as well; that is said as the extrapolation that it is, and not
    recommended.
    """
    most = max(c.steps for c in candidates)
    if best.steps < most:
        return []
    by_steps: dict[int, list[Cell]] = {}
    for cell in cells:
        if (numbers := cell.setting.numbers) is not None and cell.real_time is not None:
            by_steps.setdefault(numbers[1], []).append(cell)
    points = [(s, h.mean, h.n) for s, group in by_steps.items() if (h := total(c.real_time for c in group)) is not None]
    text = f"More than {most} steps were never tried"
    steps, speed, n = np.array(points, dtype=np.float64).reshape(-1, 3).T
    slope, base = np.polyfit(steps, speed, 1, w=np.sqrt(n)) if len(points) > 1 else (0.0, 0.0)
    if slope <= 0:
        return [f"{text}."]
    reach = min(int((rails.slowest - base) / slope), rails.steps[1])
    if reach <= most:
        return [f"{text}; by a straight line through what was seen they would be too slow."]
    return [
        (
            f"{text}; a straight line through what was seen would allow about {reach}, but that is extrapolated, not "
            "observed."
        )
    ]
