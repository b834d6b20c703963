"""How many streams can this card hold, and what stops it first?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.arrays import Floats
from vibevoice_otel.insight.capacities import memory
from vibevoice_otel.insight.capacities.answers import (
    CapacityReport,
    CardAnswer,
    Limit,
    LimitAnswer,
    MemoryCurve,
    PerCard,
    Question,
    Verdict,
    floor,
)
from vibevoice_otel.insight.capacities.card import answer_card, per_card
from vibevoice_otel.insight.capacities.load import Found, Load, block_sums, bootstrap
from vibevoice_otel.insight.capacities.memory import answer_memory
from vibevoice_otel.insight.capacities.queue import AT_LEAST, infer_slots
from vibevoice_otel.insight.capacities.speed import answer_speed
from vibevoice_otel.insight.observations import Process, Window, block_steps, observe
from vibevoice_otel.insight.source import Source, gib
from vibevoice_otel.insight.stats import CONFIDENCE

DRAWS = 400


def capacity(
    source: Source,
    *,
    streams: int | None = None,
    gpu_memory: float | None = None,
    concurrency: int | None = None,
    cores: int | None = None,
    slo_seconds: float = semconv.SLO_FIRST_AUDIO_SECONDS,
    slo_ratio: float = semconv.SLO_FIRST_AUDIO_RATIO,
    draws: int = DRAWS,
    seed: int = 0,
) -> CapacityReport:
    """Answer from what was observed.

    A stream is a listener being spoken to: it takes one second of audio a second. Memory is judged as if all of them
    held theirs at once.

    Args:
        source: where the data is.
        streams: how many are wanted, for a yes or no.
        gpu_memory: bytes of the card in question; by default the card observed.
        concurrency: requests that the service works on at once; inferred from the waits when not given.
        cores: of the host, for how many processes it has one each; not known when not given.
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
        ("cores", cores),
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
            f"{restarts} process(es) restarted within the window; what they counted before is kept, peaks count from "
            "the restart."
        )
    question = Question(streams, gpu_memory, concurrency, slo_seconds, slo_ratio, draws, seed, cores)
    kinds = _kinds(window.processes)
    if len(kinds) > 1:
        notes.append(f"{len(kinds)} kinds of cards were seen; each is answered from its own data alone.")
    cards = [_card(name, group, window, question) for name, group in kinds.items()]
    if gpu_memory is not None and len(cards) > 1:
        cards.sort(key=lambda card: math.inf if card.card_bytes is None else abs(card.card_bytes - gpu_memory))
        notes.append(f"The first answer is from the kind of card nearest to the {gib(gpu_memory)} asked about.")
    return CapacityReport(source.origin, streams, gpu_memory, CONFIDENCE, cards, notes)


def _size(group: Sequence[Process]) -> float | None:
    sizes = (memory.most(device.limit) for process in group for device in process.devices.values())
    return min(filter(None, sizes), default=None)


def _kinds(processes: Sequence[Process]) -> dict[str, list[Process]]:
    """Processes by the sizes of the cards that they report, to a quarter of a GiB."""
    groups: dict[str, list[Process]] = {}
    for process in processes:
        sizes = [memory.most(device.limit) for device in process.devices.values()]
        names = sorted(f"{round(size / 2**28) / 4:g} GiB" if size else "size not reported" for size in sizes)
        groups.setdefault(" + ".join(names) or "no GPU reported", []).append(process)
    return dict(sorted(groups.items()))


def _card(name: str, group: Sequence[Process], window: Window, question: Question) -> CardAnswer:
    rng = np.random.default_rng(question.seed)
    notes: list[str] = []
    size = block_steps(window, group)
    load = block_sums(window, group, size)
    most = int(max((memory.most(process.active) for process in group), default=0.0))
    weights = bootstrap(len(load.requests), question.draws, rng)
    slots, slots_source = infer_slots(load, weights, most, question)
    if slots[0] < most:
        load = block_sums(window, group, size, float(slots[0]))
        slots, slots_source = infer_slots(load, weights, most, question)
    waited = slots_source != AT_LEAST
    devices = sorted({d for p in group for d in p.devices})
    fits = {d: memory.fit(group, d, int(slots[0]) if waited else None, size, question.draws, rng) for d in devices}
    known = {d: f for d, f in fits.items() if f is not None}
    caps = {d: (question.gpu_memory / 2**30 if question.gpu_memory else f.limit) for d, f in known.items()}
    n_blocks, requests = len(load.requests), int(load.requests.sum())

    in_memory, sample, curve, naive = answer_memory(known, caps, group, n_blocks, notes)
    speed = answer_speed(load, weights, window, slots, question, rng, notes)
    answers: list[Found] = [(in_memory, sample)]
    for limit, drawn in speed:
        open_ended = not waited and limit.streams is not None
        answers.append((replace(limit, at_least=True, high=None) if open_ended else limit, drawn))
    card = answer_card(weights, load, group) if speed[0][1] is not None else None
    if card is not None:
        answers.append(card)
    limits = [limit for limit, _ in answers]
    draws = {limit.name: drawn for limit, drawn in answers if drawn is not None}
    whole = per_card(group, limits, known, caps, question.cores)
    rejected = float(load.rejected.sum())
    if rejected:
        share = rejected / (rejected + requests)
        notes.append(f"{rejected:.0f} requests ({share:.1%}) were turned away as busy.")
    observed = _size(group)
    if question.gpu_memory and observed and abs(observed / question.gpu_memory - 1) > 0.1:
        notes.append(
            f"Compute and the queue are those of the card observed ({gib(observed)}): another card may be faster or "
            "slower."
        )
    if speed[1][0].streams is None or (known and in_memory.streams is None):
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
        whole,
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
    load: Load,
    window: Window,
    question: Question,
    naive: int | None,
    notes: list[str],
    curve: MemoryCurve | None,
    whole: PerCard | None,
) -> CardAnswer:
    """The least of the limits, draw by draw, so that the interval knows which of them may bind."""
    streams = low = high = None
    binds: Limit | None = None
    share: dict[str, float] = {}
    holds = None
    verdict: Verdict = "cannot say"
    open_ended = {limit.name: limit.at_least for limit in limits}
    # The card's lower bound binds nothing where the host is known to be the limit: it has no draws then.
    finite = {
        limit.name: limit.streams
        for limit in limits
        if limit.streams is not None and (limit.name != "card" or "card" in draws)
    }
    if finite:
        binds, least_of_all = min(finite.items(), key=lambda item: item[1])
        streams = floor(least_of_all)
    if draws:
        table = np.array(list(draws.values()))
        least = np.floor(table.min(axis=0) + 1e-9)
        tail = (1 - CONFIDENCE) / 2
        low = floor(float(np.quantile(least, tail, method="nearest")))
        # What rests on slots that may be more bounds the answer from below only.
        sure = [drawn for key, drawn in draws.items() if not open_ended[key]]
        most_held = np.floor(np.array(sure).min(axis=0) + 1e-9) if sure else np.full_like(least, np.inf)
        high = floor(float(np.quantile(most_held, 1 - tail, method="nearest")))
        first = table.argmin(axis=0)
        share = {key: float((first == index).mean()) for index, key in enumerate(draws)}
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
        extrapolates=(question.streams or streams or 0) > most,
        slots=slots,
        slots_source=slots_source,
        requests=int(load.requests.sum()),
        blocks=n_blocks,
        hours=float(sum(np.count_nonzero(~np.isnan(p.active)) for p in group) * window.step / 3600),
        naive=naive,
        notes=notes,
        curve=curve,
        per_card=whole,
    )


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
    work = f"{factor:.3f} s of work for a second of audio, if one request is worked on at a time"
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
            LimitAnswer("compute", 1 / factor, None, None, work),
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
