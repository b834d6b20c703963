"""A quality profile of each voice: ranked, with evidence, and an outlier named only where it is one statistically."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight import stats
from vibevoice_otel.insight.arrays import Floats
from vibevoice_otel.insight.cells import Cell, Setting, by_voice, growth, read_cells, total
from vibevoice_otel.insight.source import Origin, Source
from vibevoice_otel.insight.stats import CONFIDENCE, Estimate, Quantile

LEAST_REQUESTS = 20  # as the alerts: below it nothing is said of a voice but its counts
FALSE_DISCOVERIES = 0.05
_POSTERIOR_DRAWS = 20_000


@dataclass(frozen=True, slots=True)
class Outlier:
    """In what a voice differs from the others, how much (odds or rate ratio) and how surely (false discovery rate
    controlled).
    """

    what: str
    ratio: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Effect of one more diffusion step and of 1.0 more cfg: seconds of first audio, and the odds ratio of failing.

    None where the voice was not observed at settings that tell them apart. ``shrunk``: pulled towards the fleet's
    effect.
    """

    latency_per_step: Estimate | None = None
    latency_per_cfg: Estimate | None = None
    failure_odds_per_step: Estimate | None = None
    failure_odds_per_cfg: Estimate | None = None


@dataclass(frozen=True, slots=True)
class VoiceProfile:
    """All that is known of one voice in the window. Shares are 0..1, times in seconds, rates a minute of audio."""

    voice: str
    rank: int | None  # None: too few requests to rank
    requests: float  # that ended by themselves: success, error, timeout
    cancelled: float
    rejected: float
    error_share: Estimate | None
    late_share: Estimate | None
    unhappy: Estimate | None  # failed or late, shrunk towards the fleet: what ranks
    p50: Quantile | None
    p95: Quantile | None
    p99: Quantile | None
    real_time_factor: float | None
    real_time_p95: Quantile | None
    audio_minutes: float
    underruns: Estimate | None
    gap_share: Estimate | None  # of the requests that count for continuity, those with a gap above its objective
    cut_off: Estimate | None  # of the requests whose speech ended, those that the length budget ended
    defects: Estimate | None
    defect_kinds: dict[str, float]
    sensitivity: Sensitivity
    outlier_in: list[Outlier]
    vanished: bool
    settings: list[str]


@dataclass(frozen=True, slots=True)
class MostStable:
    """The voice least likely to disappoint. ``probability``: that it truly is the best of those ranked."""

    voice: str
    probability: float
    evidence: str
    not_separable_from: list[str]


@dataclass(frozen=True, slots=True)
class VoicesReport:
    """Voices, best first; those with too few requests come last, unranked."""

    origin: Origin
    confidence: float
    voices: list[VoiceProfile]
    most_stable: MostStable | None
    fleet: Sensitivity
    slo_seconds: float
    notes: list[str]


def voices(source: Source, *, slo_seconds: float = semconv.SLO_FIRST_AUDIO_SECONDS, seed: int = 0) -> VoicesReport:
    """Profile every voice seen in the window.

    Raises:
        SourceError: when the source cannot be read.
    """
    cells = list(read_cells(source).values())
    names = sorted({c.voice for c in cells if c.ended or c.first_audio})
    notes: list[str] = []
    present = {p.labels.get("voice", "") for p in source.current(semconv.REQUESTS.prometheus, ("voice",))}
    if not names:
        notes.append(
            f"{len(present)} voices are known, none was asked to speak in the window."
            if present
            else "No speech request is recorded here: is the service instrumented, and is this the store it reports to?"
        )
        return VoicesReport(source.origin, CONFIDENCE, [], None, Sensitivity(), slo_seconds, notes)
    audio = {voice: seconds / 60 for voice, seconds in by_voice(source, semconv.AUDIO_PRODUCED.prometheus).items()}
    underruns = by_voice(source, semconv.UNDERRUN.prometheus)
    defects = _by(source, semconv.DEFECTIVE_FRAMES, semconv.M_KIND)
    gaps = _by(source, semconv.CONTINUITY_SLI, semconv.M_RESULT)
    ends = _by(source, semconv.FINISHED, semconv.M_FINISH_REASON)
    mine = {name: [c for c in cells if c.voice == name] for name in names}
    fleet, slopes = _sensitivities(mine)
    counts = {n: sum(defects[n].values()) for n in names}
    outliers = _outliers(names, cells, audio, underruns, counts, slo_seconds)
    unhappy, posterior = _unhappy(names, mine, slo_seconds, np.random.default_rng(seed))
    ranked = sorted((n for n in names if n in unhappy), key=lambda n: (unhappy[n].high, n))
    few = [n for n in names if n not in unhappy]
    profiles = []
    spread_underruns, spread_defects = (_dispersion(names, events, audio) for events in (underruns, counts))
    for name, group in ((n, mine[n]) for n in (*ranked, *few)):
        first = total(c.first() for c in group)
        speed = total(c.real_time for c in group)
        ended, failed = sum(c.ended for c in group), sum(c.failed for c in group)
        profiles.append(
            VoiceProfile(
                voice=name,
                rank=ranked.index(name) + 1 if name in unhappy else None,
                requests=ended,
                cancelled=sum(c.statuses.get(semconv.Status.CANCELLED.value, 0.0) for c in group),
                rejected=sum(c.statuses.get(semconv.Status.REJECTED.value, 0.0) for c in group),
                error_share=stats.proportion(failed, ended),
                late_share=stats.proportion(first.above(slo_seconds), first.n) if first else None,
                unhappy=unhappy.get(name),
                p50=stats.quantile(first, 0.5) if first else None,
                p95=stats.quantile(first, 0.95) if first else None,
                p99=stats.quantile(first, 0.99) if first else None,
                real_time_factor=speed.mean if speed else None,
                real_time_p95=stats.quantile(speed, 0.95) if speed else None,
                audio_minutes=audio.get(name, 0.0),
                underruns=stats.rate(underruns.get(name, 0.0), audio.get(name, 0.0), dispersion=spread_underruns),
                gap_share=stats.proportion(gaps[name].get("bad", 0.0), sum(gaps[name].values())),
                cut_off=stats.proportion(
                    ends[name].get(semconv.FinishReason.LENGTH.value, 0.0), sum(ends[name].values())
                ),
                defects=stats.rate(counts[name], audio.get(name, 0.0), dispersion=spread_defects),
                defect_kinds=defects[name],
                sensitivity=slopes[name],
                outlier_in=outliers.get(name, []),
                vanished=name not in present,
                settings=sorted({f"cfg {c.setting.cfg}, {c.setting.steps} steps" for c in group}),
            )
        )
    gone = [p.voice for p in profiles if p.vanished]
    if gone:
        notes.append(
            f"{', '.join(gone)}: spoke within the window but is no longer reported (removed, renamed, or its service "
            "is down)."
        )
    if few:
        notes.append(f"{', '.join(few)}: fewer than {LEAST_REQUESTS} requests, too few to rank or compare.")
    restarts = source.restarts()
    if restarts:
        notes.append(f"{restarts} process(es) restarted within the window; counts around the restart are estimates.")
    return VoicesReport(
        source.origin,
        CONFIDENCE,
        profiles,
        _most_stable(profiles[: len(ranked)], unhappy, posterior),
        fleet,
        slo_seconds,
        notes,
    )


def _by(source: Source, metric: semconv.Metric, label: semconv.Attribute) -> dict[str, dict[str, float]]:
    """Growth of a counter by voice and another label."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for (voice, value), grown in growth(source, metric.prometheus, ("voice", label.key)).items():
        found[voice][value] = grown
    return found


def _unhappy(
    names: Sequence[str], mine: dict[str, list[Cell]], slo: float, rng: np.random.Generator
) -> tuple[dict[str, Estimate], dict[str, Floats]]:
    """Share of requests that failed or came late, shrunk towards the fleet so that a small sample cannot rank high by
    luck.
    """
    tried: dict[str, tuple[float, float]] = {}
    for name in names:
        n = sum(c.ended for c in mine[name])
        late = sum(h.above(slo) for c in mine[name] if (h := c.first()) is not None)
        if n >= LEAST_REQUESTS:
            tried[name] = (min(sum(c.failed for c in mine[name]) + late, n), n)
    from scipy.stats import beta

    a, b = stats.beta_prior([k for k, _ in tried.values()], [n for _, n in tried.values()])
    result, draws = {}, {}
    for name, (k, n) in tried.items():
        shape = (a + k, b + n - k)
        low, high = beta.interval(CONFIDENCE, *shape)
        result[name] = Estimate(shape[0] / sum(shape), float(low), float(high), n)
        draws[name] = rng.beta(*shape, size=_POSTERIOR_DRAWS)
    return result, draws


def _most_stable(
    ranked: Sequence[VoiceProfile], unhappy: dict[str, Estimate], draws: dict[str, Floats]
) -> MostStable | None:
    if len(ranked) < 2:
        return None
    best = ranked[0]
    share = unhappy[best.voice]
    others = [each.voice for each in ranked[1:]]
    sooner = {voice: draws[best.voice] < draws[voice] for voice in others}
    probability = float(np.logical_and.reduce(list(sooner.values())).mean())
    close = [voice for voice in others if float(sooner[voice].mean()) < CONFIDENCE]
    spread = ""
    if best.p50 and best.p95 and best.p50.value and best.p95.value:
        spread = f", first audio {best.p50.value * 1000:.0f} ms at P50 and {best.p95.value * 1000:.0f} ms at P95"
    evidence = (
        f"at most {share.high:.1%} of requests failed or late ({share.value:.1%} estimated from {best.requests:.0f})"
    )
    return MostStable(best.voice, probability, evidence + spread, close)


def _dispersion(names: Sequence[str], events: Mapping[str, float], exposure: Mapping[str, float]) -> float:
    """How much more than Poisson the voices' rates scatter, from the middle of the crowd so that an outlier does not
    hide itself.
    """
    from scipy.stats import chi2

    rows = [(events.get(name, 0.0), x) for name in names if (x := exposure.get(name, 0.0)) > 0]
    total_events = sum(e for e, _ in rows)
    if len(rows) < 4 or not total_events:
        return 1.0
    centre = float(np.median([e / x for e, x in rows])) or total_events / sum(x for _, x in rows)
    pearson = [(e - centre * x) ** 2 / (centre * x) for e, x in rows]
    return max(1.0, float(np.median(pearson)) / float(chi2.ppf(0.5, 1)))


def _outliers(
    names: Sequence[str],
    cells: Sequence[Cell],
    audio: dict[str, float],
    underruns: dict[str, float],
    defects: dict[str, float],
    slo: float,
) -> dict[str, list[Outlier]]:
    """Test each voice against the rest, all tests together under one false discovery rate."""
    tests: list[tuple[str, str, float, float]] = []
    enough = [n for n in names if sum(c.ended for c in cells if c.voice == n) >= LEAST_REQUESTS]
    for name in enough if len(enough) > 1 else []:
        # By stratum: (this voice's bad, all of its, the others' bad, all of theirs).
        failing: dict[Setting, Floats] = defaultdict(lambda: np.zeros(4))
        late: dict[tuple[Setting, str], Floats] = defaultdict(lambda: np.zeros(4))
        for cell in cells:
            whose = slice(0, 2) if cell.voice == name else slice(2, 4)
            failing[cell.setting][whose] += cell.failed, cell.ended
            for length, histogram in cell.first_audio.items():
                late[cell.setting, length][whose] += histogram.above(slo), histogram.n
        tests += [
            (name, "errors", *stats.stratified_excess(failing.values())),
            (name, "late first audio", *stats.stratified_excess(late.values())),
            (name, "underruns", *_rate_excess(name, enough, underruns, audio)),
            (name, "defective frames", *_rate_excess(name, enough, defects, audio)),
        ]
    named: dict[str, list[Outlier]] = {}
    for (name, what, ratio, p), stands_out in zip(
        tests, stats.discoveries([t[3] for t in tests], FALSE_DISCOVERIES), strict=True
    ):
        if stands_out:
            named.setdefault(name, []).append(Outlier(what, ratio, p))
    return named


def _rate_excess(
    name: str, voices_: Sequence[str], events: dict[str, float], audio: dict[str, float]
) -> tuple[float, float]:
    """Rate ratio against the rest and its p-value: conditional binomial test of two Poisson rates, clusters allowed
    for.
    """
    from scipy.stats import binom

    mine, exposure = events.get(name, 0.0), audio.get(name, 0.0)
    rest = sum(events.get(v, 0.0) for v in voices_ if v != name)
    rest_exposure = sum(audio.get(v, 0.0) for v in voices_ if v != name)
    if not exposure or not rest_exposure or not mine:
        return 1.0, 1.0
    spread = _dispersion(voices_, events, audio)
    k, n = math.floor(mine / spread), math.ceil((mine + rest) / spread)
    ratio = (mine / exposure) / (rest / rest_exposure) if rest else math.inf
    return ratio, float(binom.sf(k - 1, n, exposure / (exposure + rest_exposure)))


# ---------------------------------------------------------------------------------------------------------- sensitivity

_EFFECTS = ("latency_per_step", "latency_per_cfg", "failure_odds_per_step", "failure_odds_per_cfg")


def _sensitivities(mine: dict[str, list[Cell]]) -> tuple[Sensitivity, dict[str, Sensitivity]]:
    """Each voice's effects, pulled towards the fleet's by how much voices truly differ (DerSimonian and Laird)."""
    raw = {name: _slopes(cells) for name, cells in mine.items()}
    fleet: dict[str, Estimate] = {}
    per_voice: dict[str, dict[str, Estimate]] = {name: {} for name in mine}
    for effect in _EFFECTS:
        known = {name: slopes[effect] for name, slopes in raw.items() if effect in slopes}
        if not known:
            continue
        odds = effect.startswith("failure")
        centre, tau2, se = _pool(list(known.values()))
        fleet[effect] = _estimate(centre, se, odds, len(known))
        for name, (value, error) in known.items():
            between = tau2 + se**2  # the fleet's own effect is not known exactly either
            weight = between / (between + error**2) if len(known) > 2 else 1.0
            shrunk = centre + weight * (value - centre)
            per_voice[name][effect] = _estimate(
                shrunk, math.sqrt(weight) * error, odds, sum(c.ended for c in mine[name])
            )
    return Sensitivity(**fleet), {name: Sensitivity(**values) for name, values in per_voice.items()}


def _estimate(value: float, se: float, odds: bool, n: float) -> Estimate:
    low, high = value - 1.96 * se, value + 1.96 * se
    if odds:
        value, low, high = (math.exp(min(x, 50.0)) for x in (value, low, high))
    return Estimate(value, low, high, n)


def _pool(effects: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Random-effects mean, variance between voices, and the mean's standard error."""
    value, error = np.array(effects, dtype=np.float64).T
    weight = 1 / error**2
    mean = float(weight @ value / weight.sum())
    q = float(weight @ (value - mean) ** 2)
    scale = float(weight.sum() - (weight**2).sum() / weight.sum())
    tau2 = max(0.0, (q - (len(effects) - 1)) / scale) if scale > 0 else 0.0
    weight = 1 / (error**2 + tau2)
    return float(weight @ value / weight.sum()), tau2, float(weight.sum() ** -0.5)


def _slopes(cells: Sequence[Cell]) -> dict[str, tuple[float, float]]:
    """Effects of steps and cfg for one voice with standard errors, where its settings tell them apart."""
    usable = [(c, (float(numbers[1]), numbers[0])) for c in cells if (numbers := c.setting.numbers) is not None]
    heard = [(at, length, h) for c, at in usable for length, h in c.first_audio.items() if h.n >= 5]
    lengths = sorted({length for _, length, _ in heard})
    means = np.array([h.mean for _, _, h in heard])
    variances = np.array([max(h.variance(), 1e-8) / h.n for _, _, h in heard])
    found = _effects(
        _EFFECTS[:2],
        [at for at, _, _ in heard],
        np.array([[float(length == each) for each in lengths] for _, length, _ in heard]),
        lambda design: stats.weighted_line(design, means, variances),
    )
    tried = [(c, at) for c, at in usable if c.ended >= 5]
    failed = np.array([c.failed for c, _ in tried])
    ended = np.array([c.ended for c, _ in tried])
    if ended.sum() >= LEAST_REQUESTS:
        ones, settings = np.ones((len(tried), 1)), [at for _, at in tried]
        found |= _effects(_EFFECTS[2:], settings, ones, lambda design: stats.logistic(design, failed, ended))
    return found


def _effects(
    names: Sequence[str],
    settings: Sequence[tuple[float, float]],
    base: Floats,
    fit: Callable[[Floats], tuple[Floats, Floats] | None],
) -> dict[str, tuple[float, float]]:
    """Effects of those of steps and cfg that vary, with standard errors; none where they cannot be told apart.

    Args:
        names: of the two effects.
        settings: (steps, cfg) of each cell.
        base: the design's other columns, shape (cells, k).
        fit: coefficients and their standard errors from the whole design.
    """
    varying = [i for i in (0, 1) if len({each[i] for each in settings}) > 1]
    if not varying:
        return {}
    columns = np.array(settings)[:, varying]
    fitted = fit(np.hstack([base, columns - columns.mean(axis=0)]))
    if fitted is None:
        return {}
    values, errors = (each[base.shape[1] :] for each in fitted)
    return {names[i]: (float(v), float(e)) for i, v, e in zip(varying, values, errors, strict=True)}
