"""How many streams before too many first audios come late, or find every slot taken; and how many slots there are."""

from __future__ import annotations

import numpy as np

from vibevoice_otel.insight.arrays import Floats, Slots
from vibevoice_otel.insight.capacities import queueing
from vibevoice_otel.insight.capacities.answers import Question
from vibevoice_otel.insight.capacities.load import (
    MODEL_ERROR,
    QUEUE_ERROR,
    QUIET_WAIT,
    Found,
    Load,
    answer,
    arrival_variation,
    contention,
    service_variation,
)
from vibevoice_otel.insight.observations import Window
from vibevoice_otel.insight.stats import Histogram

_MOST_SLOTS = 256

AT_LEAST = "the most streams seen at once; hardly any waiting was seen, so it may be more"


def infer_slots(load: Load, weights: Floats, most: int, question: Question) -> tuple[Slots, str]:
    """How many requests the service works on at once, (draws,): said, or that under which the waits seen are the
    likeliest.
    """
    if question.concurrency is not None:
        return np.full(len(weights), question.concurrency), "given"
    requests, audio, waits = (float(x.sum()) for x in (load.requests, load.audio, load.waits))
    seen = float(load.waits_sum.sum()) / waits if waits else 0.0
    refuses = float(load.rejected.sum()) >= 10 and seen < QUIET_WAIT
    if not requests or not audio or not load.busy.sum() or (seen < QUIET_WAIT and not refuses):
        return np.full(len(weights), max(1, most)), AT_LEAST
    per_draw = np.maximum(weights @ load.requests, 1.0)
    observed = (weights @ load.waits_sum) / np.maximum(weights @ load.waits, 1.0)
    work = (weights @ load.audio) / per_draw
    base, slope = contention(weights, load)
    variability = (1.0 + service_variation(weights, load)) / 2
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
            gap = np.abs(np.log((expected + QUIET_WAIT) / (observed + QUIET_WAIT)))
        best, distance = np.where(gap < distance, count, best), np.minimum(gap, distance)
    return best, f"inferred from the {'refusals' if refuses else 'waits'} seen"


def answer_queue(
    weights: Floats,
    load: Load,
    window: Window,
    work: Floats,
    base: Floats,
    slope: Floats,
    slots: Slots,
    question: Question,
    rng: np.random.Generator,
    notes: list[str],
) -> Found:
    n_blocks = len(load.requests)
    rejects = float(load.rejected.sum()) > 0 and float(load.waits_sum.sum()) < QUIET_WAIT * max(
        float(load.waits.sum()), 1.0
    )
    counts = load.first_audio @ weights.T  # (buckets, draws)
    service, arrival = service_variation(weights, load), arrival_variation(weights, load)
    variability = (arrival + service) / 2 * np.exp(np.append(0.0, rng.normal(0, MODEL_ERROR, weights.shape[0] - 1)))
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
        "late_share_expected_at_mean_load": expected, "streams_seen_mean": float(now[0] * work[0]),
        "refuses": "yes" if rejects else "no",
    }  # fmt: skip
    if bad(np.full_like(work, 1e-6))[0] > allowed:
        notes.append("Even a lone request misses the first-audio objective: the queue is not what holds it back.")
    if not rejects and seen_late > max(3 * allowed, 3 * expected) and seen_late * counts[:, 0].sum() > 20:
        notes.append(
            f"{seen_late:.1%} of first audio came late at the mean load, where the queue model expects {expected:.1%}: "
            "load comes in bursts or something else delays it, and the queue answer is too hopeful."
        )
    low *= np.exp(np.append(0.0, rng.normal(0, QUEUE_ERROR, len(low) - 1)))
    what = "of requests find every slot taken" if rejects else f"of first audio later than {question.slo_seconds:g} s"
    why = f"beyond this more than {allowed:.0%} {what}"
    return answer("queue", np.maximum(low, 1e-9), n_blocks, why, details)


def _own_first_audio(counts: Floats, weights: Floats, load: Load, edges: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the logarithm of first audio without a wait, at the load seen; (draws,).

    Waits are long beside first audio, so those who waited fill the distribution's upper end: its lower ``1 - felt`` is
    first audio alone, of which the median and the 90th percentile fix a log-normal.
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
