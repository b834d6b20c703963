"""How much audio can be made a second: by the slots, one after the other."""

from __future__ import annotations

import numpy as np

from vibevoice_otel.insight.arrays import Floats, Slots
from vibevoice_otel.insight.capacities.answers import Question
from vibevoice_otel.insight.capacities.load import (
    LEAST_BLOCKS,
    LEAST_REQUESTS,
    MODEL_ERROR,
    Found,
    Load,
    answer,
    contention,
    unanswered,
)
from vibevoice_otel.insight.capacities.queue import answer_queue
from vibevoice_otel.insight.observations import Window


def answer_speed(
    load: Load,
    weights: Floats,
    window: Window,
    slots: Slots,
    question: Question,
    rng: np.random.Generator,
    notes: list[str],
) -> tuple[Found, Found]:
    """Compute (audio seconds that can be made a second) and the queue (late first audio), from the same draws."""
    requests, n_blocks = float(load.requests.sum()), len(load.requests)
    missing = None
    if not load.busy.sum() or not load.audio.sum():
        missing = "no audio was made in the window"
    elif requests < LEAST_REQUESTS or n_blocks < LEAST_BLOCKS:
        missing = (
            f"{requests:.0f} requests in {n_blocks} stretches of time: at least {LEAST_REQUESTS} in {LEAST_BLOCKS} "
            "are needed"
        )
    if missing:
        return unanswered("compute", missing), unanswered("queue", missing)
    work = (weights @ load.audio) / np.maximum(weights @ load.requests, 1.0)
    base, slope = contention(weights, load, np.exp(np.append(0.0, rng.normal(0, MODEL_ERROR, len(weights) - 1))))
    compute = _compute(base, slope, slots, n_blocks)
    if not load.first_audio.sum():
        return compute, unanswered("queue", "no first-audio latency was recorded")
    return compute, answer_queue(weights, load, window, work, base, slope, slots, question, rng, notes)


def _compute(base: Floats, slope: Floats, slots: Slots, n_blocks: int) -> Found:
    """Streams whose audio can be made in real time with all slots at work,
    each of them still faster than it is heard.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        fed = np.where(slope > 0, (1 - base) / slope, np.where(base < 1, np.inf, 0.0))
        at_work = np.where(fed < 1, 0.0, np.minimum(fed, slots))  # below one: not even alone
        held = np.where(at_work > 0, at_work / (base + slope * at_work), 0.0)
    alone = float(base[0] + slope[0])
    factor = float(base[0] + slope[0] * float(at_work[0]))
    why = f"{factor:.3f} s of work for a second of audio in each of {slots[0]} slot(s)"
    if at_work[0] < 1:
        why = f"{alone:.3f} s of work for a second of audio: slower than it is heard, even alone"
    return answer(
        "compute", held, n_blocks, why,
        {"real_time_factor_alone": alone, "slowdown_per_stream": float(slope[0]), "slots": float(slots[0])},
    )  # fmt: skip
