"""How many streams can this card hold, and what stops it first: memory, compute or the queue?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight import memory, queueing
from vibevoice_otel.insight.observations import Process, Window, block_steps, blocks, observe
from vibevoice_otel.insight.source import Origin, Source, gib
from vibevoice_otel.insight.stats import CONFIDENCE, Histogram

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Slots = NDArray[np.int64]

Limit = Literal["memory", "compute", "queue"]
Verdict = Literal["yes", "no", "too close to say", "cannot say"]

DRAWS = 400
_LEAST_BLOCKS = 8
_LEAST_REQUESTS = 50
_MODEL_ERROR = 0.1  # relative standard error for what the models themselves leave out: the variability of waits, the slowing of slots
_QUIET_WAIT = 0.005  # a mean wait below this is the hand-off of a request, not a queue
_MOST_SLOTS = 256


@dataclass(frozen=True, slots=True)
class LimitAnswer:
    """What one resource allows. ``streams`` is None when it could not be answered; ``why`` then says what is missing."""

    name: Limit
    streams: float | None
    low: float | None
    high: float | None
    why: str
    at_least: bool = False  # the slots are not known, so the true number may be higher; high is then None
    details: dict[str, float | str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryCurve:
    """For the plot: samples seen, and the line with its interval. Streams and GiB."""

    seen: list[tuple[float, float]]
    streams: list[float]
    middle: list[float]
    low: list[float]
    high: list[float]
    limit: float


@dataclass(frozen=True, slots=True)
class CardAnswer:
    """The answer for one kind of card. Streams are whole numbers; None where unknown, the interval is at ``CONFIDENCE``."""

    card: str
    card_bytes: float | None  # the smallest card's own size, whatever size was asked about
    processes: int
    streams: int | None
    low: int | None
    high: int | None
    binds_first: Limit | None
    binds_share: dict[str, float]
    limits: list[LimitAnswer]
    verdict: Verdict
    holds_probability: float | None
    most_seen: int
    extrapolates: bool
    slots: int
    slots_source: str
    requests: int
    blocks: int
    hours: float
    naive: int | None
    notes: list[str]
    curve: MemoryCurve | None = None


@dataclass(frozen=True, slots=True)
class CapacityReport:
    """One answer a kind of card: cards of different sizes are never mixed."""

    origin: Origin
    asked_streams: int | None
    asked_memory: float | None
    confidence: float
    cards: list[CardAnswer]
    notes: list[str]


def capacity(
    source: Source,
    *,
    streams: int | None = None,
    gpu_memory: float | None = None,
    concurrency: int | None = None,
    slo_seconds: float = semconv.SLO_FIRST_AUDIO_SECONDS,
    slo_ratio: float = semconv.SLO_FIRST_AUDIO_RATIO,
    draws: int = DRAWS,
    seed: int = 0,
) -> CapacityReport:
    """Answer from what was observed.

    A stream is a listener being spoken to: it takes one second of audio a second. Memory is judged as if all of them held
    theirs at once.

    Args:
        source: where the data is.
        streams: how many are wanted, for a yes or no.
        gpu_memory: bytes of the card in question; by default the card observed.
        concurrency: requests that the service works on at once; inferred from the waits when not given.
        slo_seconds: the first-audio objective.
        slo_ratio: the share of requests that must meet it.
        draws: how often the data is resampled.
        seed: of the resampling; the same data and seed give the same answer.

    Raises:
        SourceError: when the source cannot be read.
        ValueError: when an argument is out of range, naming it.
    """
    for name, value in (
        ("streams", streams),
        ("gpu_memory", gpu_memory),
        ("concurrency", concurrency),
        ("slo_seconds", slo_seconds),
    ):
        if value is not None and not 0 < value < 1e18:
            raise ValueError(f"{name}={value!r}: allowed is a positive number")
    if not 0 < slo_ratio < 1:
        raise ValueError(f"slo_ratio={slo_ratio!r}: allowed is a share between 0 and 1")
    window = observe(source)
    if window is None:
        return CapacityReport(source.origin, streams, gpu_memory, CONFIDENCE, *_without_history(source))
    notes = []
    restarts = source.restarts()
    if restarts:
        notes.append(
            f"{restarts} process(es) restarted within the window; what they counted before is kept, peaks count from the restart."
        )
    question = _Question(streams, gpu_memory, concurrency, slo_seconds, slo_ratio, draws, seed)
    kinds = _kinds(window.processes)
    if len(kinds) > 1:
        notes.append(f"{len(kinds)} kinds of cards were seen; each is answered from its own data alone.")
    cards = [_card(name, group, window, question) for name, group in kinds.items()]
    if gpu_memory is not None and len(cards) > 1:
        cards.sort(key=lambda card: math.inf if card.card_bytes is None else abs(card.card_bytes - gpu_memory))
        notes.append(f"The first answer is from the kind of card nearest to the {gib(gpu_memory)} asked about.")
    return CapacityReport(source.origin, streams, gpu_memory, CONFIDENCE, cards, notes)


@dataclass(frozen=True, slots=True)
class _Question:
    streams: int | None
    gpu_memory: float | None
    concurrency: int | None
    slo_seconds: float
    slo_ratio: float
    draws: int
    seed: int


def _size(group: Sequence[Process]) -> float | None:
    sizes = [float(np.nanmax(d.limit)) for p in group for d in p.devices.values() if not np.isnan(d.limit).all()]
    return min(sizes) if sizes else None


def _kinds(processes: Sequence[Process]) -> dict[str, list[Process]]:
    """Processes by the sizes of the cards that they report, to a quarter of a GiB."""
    groups: dict[str, list[Process]] = {}
    for process in processes:
        sizes = []
        for device in process.devices.values():
            known = device.limit[~np.isnan(device.limit)]
            sizes.append(f"{round(float(known.max()) / 2**28) / 4:g} GiB" if known.size else "size not reported")
        name = " + ".join(sorted(sizes)) if sizes else "no GPU reported"
        groups.setdefault(name, []).append(process)
    return dict(sorted(groups.items()))


@dataclass(frozen=True, slots=True)
class _Load:
    """Block sums of one kind of card, (blocks,) each; ``moments`` (blocks, ...) feed the resampling."""

    seconds: Floats
    requests: Floats
    rejected: Floats
    busy: Floats
    audio: Floats
    first: Floats  # (buckets, blocks)
    first_sum: Floats
    waits: Floats
    waits_sum: Floats
    waits_felt: Floats
    device_seconds: Floats
    busy2: Floats  # sum over cells of busy squared over requests
    cells: Floats
    jumps: Floats  # half the squared differences of neighbouring cells' requests
    active: Floats
    active2: Floats
    cross: Floats  # (6, blocks): sums over cells, weighted by audio, of 1, made, factor, n, made * factor, made * n


def _card(name: str, group: Sequence[Process], window: Window, question: _Question) -> CardAnswer:
    rng = np.random.default_rng(question.seed)
    notes: list[str] = []
    size = block_steps(window, group)
    load = _load(window, group, size)
    most = int(max((float(np.nanmax(p.active)) for p in group if not np.isnan(p.active).all()), default=0.0))
    weights = _weights(len(load.requests), question.draws, rng)
    slots, slots_source = _slots(load, weights, most, question)
    if slots[0] < most:
        load = _load(window, group, size, float(slots[0]))
        slots, slots_source = _slots(load, weights, most, question)
    waited = slots_source != _AT_LEAST
    devices = sorted({d for p in group for d in p.devices})
    fits = {d: memory.fit(group, d, int(slots[0]) if waited else None, size, question.draws, rng) for d in devices}
    known = {d: f for d, f in fits.items() if f is not None}
    limits: list[LimitAnswer] = []
    draws: dict[Limit, Floats] = {}
    n_blocks = len(load.requests)

    answer, sample, curve, naive = _memory(known, group, question, n_blocks, notes)
    limits.append(answer)
    if sample is not None:
        draws["memory"] = sample
    requests = int(load.requests.sum())
    compute, queue = _speed(load, weights, window, slots, question, rng, notes)
    for limit, found in (compute, queue):
        open_ended = slots_source == _AT_LEAST and limit.streams is not None
        limits.append(replace(limit, at_least=True, high=None) if open_ended else limit)
        if found is not None:
            draws[limit.name] = found
    rejected = float(load.rejected.sum())
    if rejected:
        share = rejected / (rejected + requests)
        notes.append(f"{rejected:.0f} requests ({share:.1%}) were turned away as busy.")
    observed = _size(group)
    if question.gpu_memory and observed and abs(observed / question.gpu_memory - 1) > 0.1:
        notes.append(
            f"Compute and the queue are those of the card observed ({gib(observed)}): another card may be faster or slower."
        )
    if queue[0].streams is None or (known and answer.streams is None):
        notes.append("A limit could not be answered, so the number is what the others allow; the truth may be lower.")
    return _combine(
        name,
        group,
        limits,
        draws,
        n_blocks,
        most,
        int(slots[0]),
        slots_source,
        load,
        window,
        question,
        naive,
        notes,
        curve,
    )


def _combine(
    name: str,
    group: Sequence[Process],
    limits: list[LimitAnswer],
    draws: dict[Limit, Floats],
    n_blocks: int,
    most: int,
    slots: int,
    slots_source: str,
    load: _Load,
    window: Window,
    question: _Question,
    naive: int | None,
    notes: list[str],
    curve: MemoryCurve | None,
) -> CardAnswer:
    """The least of the limits, draw by draw, so that the interval knows which of them may bind."""
    streams = low = high = None
    binds: Limit | None = None
    share: dict[str, float] = {}
    holds = None
    verdict: Verdict = "cannot say"
    open_ended = {limit.name: limit.at_least for limit in limits}
    finite = {limit.name: limit.streams for limit in limits if limit.streams is not None}
    if finite:
        binds, least_of_all = min(finite.items(), key=lambda item: item[1])
        streams = _floor(least_of_all)
    if draws:
        names = list(draws)
        table = np.array([draws[key] for key in names])
        least = np.floor(table.min(axis=0) + 1e-9)
        tail = (1 - CONFIDENCE) / 2
        low = _floor(float(np.quantile(least, tail, method="nearest")))
        # What rests on slots that may be more bounds the answer from below only.
        sure = [key for key in names if not open_ended[key]]
        most_held = (
            np.floor(np.array([draws[key] for key in sure]).min(axis=0) + 1e-9) if sure else np.full_like(least, np.inf)
        )
        high = _floor(float(np.quantile(most_held, 1 - tail, method="nearest")))
        first = table.argmin(axis=0)
        share = {key: float((first == index).mean()) for index, key in enumerate(names)}
        if question.streams is not None:
            holds = float((least >= question.streams).mean())
            verdict = "too close to say"
            if holds >= 1 - tail:
                verdict = "yes"
            elif float((most_held >= question.streams).mean()) <= tail:
                verdict = "no"
            elif any(open_ended.values()):
                verdict = "cannot say"
    if verdict == "yes" and any(limit.streams is None and not limit.why.startswith("no GPU") for limit in limits):
        verdict = "cannot say"
    aim = question.streams or streams or 0
    return CardAnswer(
        card=name,
        card_bytes=_size(group),
        processes=len(group),
        streams=streams,
        low=low,
        high=high,
        binds_first=binds,
        binds_share=share,
        limits=limits,
        verdict=verdict,
        holds_probability=holds,
        most_seen=most,
        extrapolates=aim > most,
        slots=slots,
        slots_source=slots_source,
        requests=int(load.requests.sum()),
        blocks=n_blocks,
        hours=float(sum(np.count_nonzero(~np.isnan(p.active)) for p in group) * window.step / 3600),
        naive=naive,
        notes=notes,
        curve=curve,
    )


def _floor(value: float) -> int | None:
    return math.floor(value + 1e-9) if math.isfinite(value) else None


def _cross(process: Process, cell: int, cap: float, step: float) -> Floats:
    audio, busy = blocks(process.audio, cell), blocks(process.busy, cell)
    made, together = audio / (cell * step), blocks(np.minimum(process.active, cap), cell) / cell
    return np.stack([audio, audio * made, busy, audio * together, busy * made, audio * made * together])


def _load(window: Window, group: Sequence[Process], size: int, cap: float = math.inf) -> _Load:
    """Block sums over like processes, at most ``cap`` of whose streams are at work, the rest waiting.

    A cell, within which requests and their seconds are matched, is about a minute.
    """
    requests = sum(float(p.requests.sum()) for p in group)
    seconds = sum(float(np.count_nonzero(~np.isnan(p.active))) for p in group) * window.step
    per_cell = max(60.0, 5 * seconds / requests) if requests else 60.0
    cell = min(size, max(1, round(per_cell / window.step)))
    size = cell * max(1, round(size / cell))
    parts: list[list[Floats]] = []
    for p in group:
        n_cells, b_cells = blocks(p.requests, cell), blocks(p.busy, cell)
        with np.errstate(divide="ignore", invalid="ignore"):
            square = np.where(n_cells > 0, b_cells**2 / n_cells, 0.0)
        jump = np.append(np.diff(n_cells) ** 2 / 2, 0.0) if n_cells.size else n_cells
        per_block = size // cell
        present = (~np.isnan(p.active)).astype(np.float64)
        rows = [
            blocks(present * window.step, size), blocks(p.requests, size), blocks(p.rejected, size), blocks(p.busy, size),
            blocks(p.audio, size), blocks(p.first_audio, size), blocks(p.first_audio_sum, size), blocks(p.waits, size),
            blocks(p.waits_sum, size), blocks(p.waits_felt, size),
            blocks(p.device_seconds, size) if not np.isnan(p.device_seconds).all() else np.full(len(present) // size, np.nan),
            blocks(square, per_block), blocks((n_cells > 0).astype(np.float64), per_block), blocks(jump, per_block),
            blocks(np.minimum(p.active, cap), size), blocks(np.minimum(p.active, cap) ** 2, size),
            blocks(_cross(p, cell, cap, window.step), per_block),
        ]  # fmt: skip
        count = min(row.shape[-1] for row in rows)
        keep = rows[0][:count] > 0
        parts.append([row[..., :count][..., keep] for row in rows])
    return _Load(*(np.concatenate(columns, axis=-1) for columns in zip(*parts, strict=True)))


_AT_LEAST = "the most streams seen at once; hardly any waiting was seen, so it may be more"


def _weights(n_blocks: int, draws: int, rng: np.random.Generator) -> Floats:
    """How often each block counts in each draw of the bootstrap, (1 + draws, blocks); the first draw is the data itself."""
    if not n_blocks:
        return np.ones((1 + draws, 0))
    return np.vstack([np.ones(n_blocks), rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=draws)])


def _slots(load: _Load, weights: Floats, most: int, question: _Question) -> tuple[Slots, str]:
    """How many requests the service works on at once, (draws,): said, or that under which the waits seen are the likeliest."""
    if question.concurrency is not None:
        return np.full(len(weights), question.concurrency), "given"
    requests, audio, waits = (float(x.sum()) for x in (load.requests, load.audio, load.waits))
    seen = float(load.waits_sum.sum()) / waits if waits else 0.0
    refuses = float(load.rejected.sum()) >= 10 and seen < _QUIET_WAIT
    if not requests or not audio or not load.busy.sum() or (seen < _QUIET_WAIT and not refuses):
        return np.full(len(weights), max(1, most)), _AT_LEAST
    per_draw = np.maximum(weights @ load.requests, 1.0)
    observed = (weights @ load.waits_sum) / np.maximum(weights @ load.waits, 1.0)
    work = (weights @ load.audio) / per_draw
    base, slope = _contention(weights, load)
    variability = (1.0 + _service_variation(weights, load)) / 2
    seconds = np.maximum(weights @ load.seconds, 1e-9)
    refused = weights @ load.rejected
    best, distance = np.ones(len(weights), dtype=np.int64), np.full(len(weights), np.inf)
    for count in range(1, min(max(1, most) + (10 if refuses else 0), _MOST_SLOTS) + 1):
        slots = np.full(len(weights), count)
        if refuses:
            expected = queueing.blocking((per_draw + refused) / seconds, work, base, slope, slots)
            gap = np.abs(np.log((expected + 1e-6) / (refused / (per_draw + refused) + 1e-6)))
        else:
            full = count / (work * np.maximum(base + slope * count, 1e-9))
            expected = queueing.mean_wait(
                np.minimum(per_draw / seconds, 0.99 * full), work, base, slope, slots, variability
            )
            gap = np.abs(np.log((expected + _QUIET_WAIT) / (observed + _QUIET_WAIT)))
        best, distance = np.where(gap < distance, count, best), np.minimum(gap, distance)
    return best, f"inferred from the {'refusals' if refuses else 'waits'} seen"


def _service_variation(weights: Floats, load: _Load) -> Floats:
    """Squared coefficient of variation of the service time, (draws,), from how busy seconds scatter about requests, cell by cell."""
    n, busy, busy2, cells = (weights @ x for x in (load.requests, load.busy, load.busy2, load.cells))
    mean = busy / np.maximum(n, 1.0)
    variance = (busy2 - 2 * mean * busy + mean**2 * n) / np.maximum(cells - 1, 1.0)
    result: Floats = np.maximum(variance, 0.0) / np.maximum(mean, 1e-9) ** 2
    return result


def _memory(
    known: dict[str, memory.MemoryFit], group: Sequence[Process], question: _Question, n_blocks: int, notes: list[str]
) -> tuple[LimitAnswer, Floats | None, MemoryCurve | None, int | None]:
    if not known:
        why = "no GPU memory was reported (a CPU, or no GPU instrumentation): memory cannot be answered"
        return LimitAnswer("memory", None, None, None, why), None, None, None
    caps = {d: (question.gpu_memory / 2**30 if question.gpu_memory else f.limit) for d, f in known.items()}
    if any(math.isnan(c) for c in caps.values()):
        return (
            LimitAnswer("memory", None, None, None, "the card's size was not reported: give it with --gpu-memory"),
            None,
            None,
            None,
        )
    held = {d: f.capacity(caps[d]) for d, f in known.items()}
    tightest = min(held, key=lambda d: float(held[d][0]))
    fit, limit = known[tightest], caps[tightest]
    naive = _floor(limit / (fit.peak / fit.most)) if fit.most else None
    if fit.levels < 3 or fit.most < 2:
        why = f"streams ran at {fit.levels} different number(s) at once, {fit.most:.0f} at most: memory cannot be set against streams"
        return LimitAnswer("memory", None, None, None, why), None, None, naive
    if n_blocks < _LEAST_BLOCKS:
        why = f"{n_blocks} independent stretches of time, at least {_LEAST_BLOCKS} are needed"
        return LimitAnswer("memory", None, None, None, why), None, None, naive
    curve = _curve(fit, tightest, group, limit, float(held[tightest][0]))
    slope_low = float(np.quantile(fit.slope[1:], 0.025))
    details: dict[str, float | str | None] = {
        "device": tightest, "limit_gib": limit, "base_gib": float(fit.base[0]), "per_stream_gib": float(fit.slope[0]),
        "per_stream_spread_gib": math.sqrt(max(float(fit.spread[0]), 0.0)), "overhead": fit.overhead,
        "transient_gib": fit.transient, "peak_seen_gib": fit.peak, "samples": float(fit.samples),
    }  # fmt: skip
    if fit.curved:
        notes.append(
            "Memory does not follow streams in a straight line here: the memory answer beyond what was seen is unsafe."
        )
    if fit.transient:
        notes.append(f"Peaks rose {gib(fit.transient * 2**30)} above what streams explain; that much is kept free.")
    if slope_low <= 0:
        why = "memory does not measurably grow with streams in this data"
        return LimitAnswer("memory", None, None, None, why, details=details), None, curve, naive
    sample = np.min([_inflate(each, n_blocks) for each in held.values()], axis=0)
    low, high = _interval(sample)
    why = f"{gib(float(fit.base[0]) * 2**30)} + {gib(float(fit.slope[0]) * 2**30)} a stream, {limit:.1f} GiB in all"
    return LimitAnswer("memory", float(held[tightest][0]), low, high, why, details=details), sample, curve, naive


def _curve(
    fit: memory.MemoryFit, device_id: str, group: Sequence[Process], limit: float, capacity_: float
) -> MemoryCurve:
    far = max(fit.most, min(capacity_, 50 * max(fit.most, 1.0)) if math.isfinite(capacity_) else fit.most) * 1.1
    grid = np.linspace(0, far, 40)
    bands = np.array([fit.quantile(float(n)) for n in grid])
    pairs: list[tuple[float, float]] = []
    for process in group:
        device = process.devices.get(device_id)
        if device is not None:
            both = ~np.isnan(process.active) & ~np.isnan(device.allocated)
            pairs += zip(process.active[both].tolist(), (device.allocated[both] / 2**30).tolist(), strict=True)
    thin = pairs[:: max(1, len(pairs) // 1500)]
    low, high = np.quantile(bands[:, 1:], [0.025, 0.975], axis=1)
    return MemoryCurve(thin, grid.tolist(), bands[:, 0].tolist(), low.tolist(), high.tolist(), limit)


def _inflate(sample: Floats, n_blocks: int) -> Floats:
    """Bootstrap draws of few blocks are too narrow: widened about the estimate, in the logarithm, by Student's t over normal."""
    from scipy.stats import t

    if sample[0] < 1e-6:  # nothing fits: there is no scale to widen on
        return sample[1:]
    factor = float(t.ppf(0.975, max(n_blocks - 2, 1))) / 1.96 * math.sqrt(n_blocks / max(n_blocks - 1, 1))
    centre = math.log(max(float(sample[0]), 1e-9)) if math.isfinite(float(sample[0])) else 0.0
    with np.errstate(divide="ignore"):
        return np.exp(centre + (np.log(np.maximum(sample[1:], 1e-9)) - centre) * factor)


def _interval(sample: Floats) -> tuple[float, float]:
    # Order statistics, not interpolation: a draw may be infinite, and infinity times zero is no number.
    low, high = np.quantile(sample, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest")
    return float(low), float(high)


_Answer = tuple[LimitAnswer, "Floats | None"]


def _speed(
    load: _Load,
    weights: Floats,
    window: Window,
    slots: Slots,
    question: _Question,
    rng: np.random.Generator,
    notes: list[str],
) -> tuple[_Answer, _Answer]:
    """Compute (audio seconds that can be made a second) and the queue (late first audio), from the same draws."""
    requests, n_blocks = float(load.requests.sum()), len(load.requests)
    missing = None
    if not load.busy.sum() or not load.audio.sum():
        missing = "no audio was made in the window"
    elif requests < _LEAST_REQUESTS or n_blocks < _LEAST_BLOCKS:
        missing = f"{requests:.0f} requests in {n_blocks} stretches of time: at least {_LEAST_REQUESTS} in {_LEAST_BLOCKS} are needed"
    if missing:
        return (LimitAnswer("compute", None, None, None, missing), None), (
            LimitAnswer("queue", None, None, None, missing),
            None,
        )
    work = (weights @ load.audio) / np.maximum(weights @ load.requests, 1.0)
    base, slope = _contention(weights, load, np.exp(np.append(0.0, rng.normal(0, _MODEL_ERROR, len(weights) - 1))))
    held, note = _compute(weights, load, base, slope, slots)
    compute = _answer("compute", held, n_blocks, note)
    if not load.first.size or not load.first.sum():
        return compute, (LimitAnswer("queue", None, None, None, "no first-audio latency was recorded"), None)
    queue = _queue(weights, load, window, work, base, slope, slots, question, rng, notes)
    return compute, queue


def _answer(name: Limit, held: Floats, n_blocks: int, why: tuple[str, dict[str, float | str | None]]) -> _Answer:
    sample = _inflate(held, n_blocks)
    low, high = _interval(sample)
    return LimitAnswer(name, float(held[0]), low, high, why[0], details=why[1]), sample


def _contention(weights: Floats, load: _Load, error: Floats | float = 1.0) -> tuple[Floats, Floats]:
    """Real-time factor of a stream when n are at work, ``base + slope n``, (draws,).

    A few scrapes tell badly how many were at work in a cell, which would flatten the slope. So the audio made in the cell, which
    is counted exactly, serves as the instrument (two-stage least squares): slope = cov(made, factor) / cov(made, n). Requests that
    straddle two cells still bias it a little: ``error``, (draws,), is what to allow for that.
    """
    one, made, factor, n, made_factor, made_n = (weights @ row for row in load.cross)
    one = np.maximum(one, 1e-12)
    overall = (weights @ load.busy) / np.maximum(weights @ load.audio, 1e-12)
    together = np.maximum((weights @ load.active2) / np.maximum(weights @ load.active, 1e-12), 1.0)
    upper, lower = made_factor / one - made * factor / one**2, made_n / one - made * n / one**2
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(lower > 1e-9, upper / lower, 0.0)
    slope = np.where(slope < 1e-6 * overall, 0.0, np.minimum(slope * error, overall / together))
    return overall - slope * together, slope


def _compute(
    weights: Floats, load: _Load, base: Floats, slope: Floats, slots: Slots
) -> tuple[Floats, tuple[str, dict[str, float | str | None]]]:
    """Streams whose audio can be made in real time with all slots at work, each of them still faster than it is heard."""
    with np.errstate(divide="ignore", invalid="ignore"):
        fed = np.where(slope > 0, (1 - base) / slope, np.where(base < 1, np.inf, 0.0))
        at_work = np.where(fed < 1, 0.0, np.minimum(fed, slots))  # below one: not even alone
        held = np.where(at_work > 0, at_work / (base + slope * at_work), 0.0)
    factor = float(base[0] + slope[0] * float(at_work[0]))
    why = f"{factor:.3f} s of work for a second of audio in each of {slots[0]} slot(s)"
    if at_work[0] < 1:
        why = f"{float(base[0] + slope[0]):.3f} s of work for a second of audio: slower than it is heard, even alone"
    details: dict[str, float | str | None] = {
        "real_time_factor_alone": float(base[0] + slope[0]), "slowdown_per_stream": float(slope[0]), "slots": float(slots[0]),
    }  # fmt: skip
    device = load.device_seconds
    if not np.isnan(device).any() and device.sum() > 0:
        demand = (weights @ device) / np.maximum(weights @ load.audio, 1e-12)
        details["device_seconds_per_audio_second"] = float(demand[0])
        card = 1 / np.maximum(demand, 1e-9)
        if float(card[0]) < float(held[0]):
            why = f"{float(demand[0]):.3f} s of the card for a second of audio (diffusion, decode and prefill)"
        held = np.minimum(held, card)
    return held, (why, details)


def _queue(
    weights: Floats,
    load: _Load,
    window: Window,
    work: Floats,
    base: Floats,
    slope: Floats,
    slots: Slots,
    question: _Question,
    rng: np.random.Generator,
    notes: list[str],
) -> _Answer:
    n_blocks = len(load.requests)
    rejects = float(load.rejected.sum()) > 0 and float(load.waits_sum.sum()) < _QUIET_WAIT * max(
        float(load.waits.sum()), 1.0
    )
    counts = load.first @ weights.T  # (buckets, draws)
    service, arrival = _service_variation(weights, load), _arrival_variation(weights, load)
    variability = (arrival + service) / 2 * np.exp(np.append(0.0, rng.normal(0, _MODEL_ERROR, weights.shape[0] - 1)))
    allowed = 1 - question.slo_ratio
    now = (weights @ load.requests) / np.maximum(weights @ load.seconds, 1e-9)
    first = _alone(
        _own_first_audio(counts, weights, load, window.edges),
        queueing.at_work(now, work, base, slope, slots),
        base,
        slope,
    )

    def bad(streams: Floats) -> Floats:
        if rejects:
            return queueing.blocking(streams / work, work, base, slope, slots)
        return queueing.late_share(streams / work, work, base, slope, slots, variability, first, question.slo_seconds)

    low, high = np.zeros_like(work), slots / np.maximum(base + slope * slots, 1e-9)
    for _ in range(40):
        middle = (low + high) / 2
        too_many = bad(middle) > allowed
        low, high = np.where(too_many, low, middle), np.where(too_many, middle, high)
    seen_late = Histogram(window.edges, counts[:, 0], 0.0).above(question.slo_seconds) / max(
        float(counts[:, 0].sum()), 1.0
    )
    expected = 0.0 if rejects else float(bad(now * work)[0])
    details: dict[str, float | str | None] = {
        "mean_audio_seconds": float(work[0]), "variability": float(variability[0]), "service_cv2": float(service[0]),
        "arrival_dispersion": float(arrival[0]), "first_audio_alone": float(np.exp(first[0][0])),
        "mean_wait_seen": float(load.waits_sum.sum() / max(load.waits.sum(), 1.0)), "late_share_seen": seen_late,
        "late_share_expected_at_mean_load": expected, "streams_seen_mean": float(now[0] * work[0]), "refuses": "yes" if rejects else "no",
    }  # fmt: skip
    if bad(np.full_like(work, 1e-6))[0] > allowed:
        notes.append("Even a lone request misses the first-audio objective: the queue is not what holds it back.")
    if not rejects and seen_late > max(3 * allowed, 3 * expected) and seen_late * counts[:, 0].sum() > 20:
        notes.append(
            f"{seen_late:.1%} of first audio came late at the mean load, where the queue model expects {expected:.1%}: "
            "load comes in bursts or something else delays it, and the queue answer is too hopeful."
        )
    what = "of requests find every slot taken" if rejects else f"of first audio later than {question.slo_seconds:g} s"
    why = f"beyond this more than {allowed:.0%} {what}"
    return _answer("queue", np.maximum(low, 1e-9), n_blocks, (why, details))


def _own_first_audio(counts: Floats, weights: Floats, load: _Load, edges: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the logarithm of first audio without a wait, at the load seen; (draws,).

    Waits are long beside first audio, so those who waited fill the distribution's upper end: its lower ``1 - felt`` is first
    audio alone, of which the median and the 90th percentile fix a log-normal.
    """
    felt = (weights @ load.waits_felt) / np.maximum(weights @ load.waits, 1.0)
    cumulative = np.cumsum(counts, axis=0)
    upper = np.append(0.0, np.where(np.isfinite(edges), edges, 2 * edges[-2]))
    at = np.empty((2, counts.shape[1]))
    for row, q in enumerate((0.5, 0.9)):
        targets = q * (1 - np.minimum(felt, 0.9)) * cumulative[-1]
        for draw in range(counts.shape[1]):
            at[row, draw] = np.interp(targets[draw], np.append(0.0, cumulative[:, draw]), upper)
    median, high = np.maximum(at[0], 1e-4), np.maximum(at[1], 1.01e-4)
    return np.log(median), np.clip(np.log(high / median) / 1.2816, 0.02, 2.0)


def _alone(seen: tuple[Floats, Floats], free: Floats, base: Floats, slope: Floats) -> tuple[Floats, Floats]:
    """First audio as it would be alone on the machine: what was seen, less the slowing by those at work meanwhile."""
    slower = np.log(queueing.slowdown(base, slope, len(free)))
    mean = (free * slower).sum(axis=0)
    variance = (free * slower**2).sum(axis=0) - mean**2
    return seen[0] - mean, np.sqrt(np.maximum(seen[1] ** 2 - variance, 0.02**2))


def _arrival_variation(weights: Floats, load: _Load) -> Floats:
    """Dispersion of arrivals, (draws,): 1 as for independent listeners, more where the data clearly shows bursts."""
    cells = float(load.cells.sum())
    seen = (weights @ load.jumps) / np.maximum(weights @ load.requests, 1.0)
    bursty = float(seen[0]) - 2 * math.sqrt(3 / max(cells, 1.0)) > 1
    return np.maximum(seen, 1.0) if bursty else np.ones_like(seen)


def _without_history(source: Source) -> tuple[list[CardAnswer], list[str]]:
    """What a single snapshot can say: demand for compute, without an interval; never how memory follows streams."""
    notes = []
    if source.origin.window is None:
        notes.append(
            "A snapshot holds one instant: how memory follows streams and how waiting follows load need a history. "
            "Scrape the service with Prometheus (make stack) and ask with --prometheus."
        )
    busy = sum(p.value for p in source.growth(semconv.GENERATE_BUSY.prometheus, ()))
    audio = sum(p.value for p in source.growth(semconv.AUDIO_PRODUCED.prometheus, ()))
    if not busy or not audio:
        notes.append("No audio was made: there is nothing to answer from.")
        return [], notes
    memory_now = [p.value for p in source.current(semconv.GPU_MEMORY.prometheus, ("device_id",))]
    why = (
        f"{gib(max(memory_now))} allocated now; one instant says nothing of streams"
        if memory_now
        else "no GPU memory was reported"
    )
    factor = busy / audio
    compute = LimitAnswer(
        "compute",
        1 / factor,
        None,
        None,
        f"{factor:.3f} s of work for a second of audio, if one request is worked on at a time",
    )
    requests = sum(
        p.value
        for p in source.growth(semconv.REQUESTS.prometheus, ("status",))
        if p.labels.get("status") != semconv.Status.REJECTED.value
    )
    card = CardAnswer(
        card="as seen in one snapshot",
        card_bytes=None,
        processes=1,
        streams=None,
        low=None,
        high=None,
        binds_first=None,
        binds_share={},
        limits=[
            LimitAnswer("memory", None, None, None, why),
            compute,
            LimitAnswer("queue", None, None, None, "needs a history"),
        ],
        verdict="cannot say",
        holds_probability=None,
        most_seen=int(sum(p.value for p in source.current(semconv.ACTIVE.prometheus, ()))),
        extrapolates=True,
        slots=1,
        slots_source="assumed",
        requests=int(requests),
        blocks=0,
        hours=0.0,
        naive=None,
        notes=[],
    )
    return [card], notes
