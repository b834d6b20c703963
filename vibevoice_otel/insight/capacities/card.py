"""What the card's kernels would carry, and how many processes that is:
the host may be the limit long before the card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vibevoice_otel.insight.arrays import Floats
from vibevoice_otel.insight.capacities.answers import LimitAnswer, PerCard, floor
from vibevoice_otel.insight.capacities.load import LEAST_BLOCKS, Found, Load, answer, contention
from vibevoice_otel.insight.capacities.memory import MemoryFit
from vibevoice_otel.insight.observations import ENGINE_ACTIVE, SM_ACTIVE, Process
from vibevoice_otel.recording.device.limits import verdict
from vibevoice_otel.semconv import Limit

ASSUMED = "if kernels of different processes do not disturb each other; not measured above one process"


def who_limits(group: Sequence[Process]) -> Limit:
    """What limits these processes, of all their frames in the window."""
    names = {name for process in group for name in process.limits}
    return verdict({name: sum(process.limits.get(name, 0.0) for process in group) for name in names})


def answer_card(weights: Floats, load: Load, group: Sequence[Process]) -> Found | None:
    """Streams that the card's kernels would carry; None without a device clock, a sample and dcgm-exporter.

    Where dcgm-exporter watched the card, what it saw counts: all of the window, and every process on the card. Else,
    with kernels' share of sampled frames, the answer is an upper bound for the card. With intervals between device
    events alone it is a lower one, for they hold the host's slowness too; where the host is known to be the limit, that
    bound binds nothing.
    """
    if not load.audio.sum() or not load.busy.sum():
        return None
    watched = _watched(weights, load)
    if watched is not None:
        return watched
    total, count = (sum(process.kernel_shares[place] for process in group) for place in (0, 1))
    if count:
        share = total / count
        base, slope = contention(weights, load)
        seconds = share * np.maximum(base + slope, 1e-9)  # a frame is sampled while no other stream is open
        why = f"at most, by kernel time ({share:.1%} of a lone frame in {count:.0f} sample(s)), {ASSUMED}"
        return answer(
            "card", 1 / np.maximum(seconds, 1e-9), len(load.requests), why,
            {"kernel_share": share, "samples": count, "kernel_seconds_per_audio_second": float(seconds[0])},
        )  # fmt: skip
    device = load.device_seconds
    if np.isnan(device).any() or not device.sum():
        return None
    demand = (weights @ device) / np.maximum(weights @ load.audio, 1e-12)
    why = (
        f"{demand[0]:.3f} s between device events for a second of audio: a lower bound, "
        "for the host's slowness lies between them too"
    )
    found, sample = answer(
        "card", 1 / np.maximum(demand, 1e-9), len(load.requests), why,
        {"device_seconds_per_audio_second": float(demand[0])},
    )  # fmt: skip
    binds = who_limits(group) not in {Limit.CORE, Limit.LOCK}
    return replace(found, high=None, at_least=True), sample if binds else None


def _watched(weights: Floats, load: Load) -> Found | None:
    """By dcgm-exporter; None where it told nothing of these cards, or of too little time."""
    engine, sm = (np.nan_to_num(each) for each in (load.engine_seconds, load.sm_seconds))
    series, seconds = (ENGINE_ACTIVE, engine) if engine.any() else (SM_ACTIVE, sm)
    if np.count_nonzero(load.told_audio) < LEAST_BLOCKS or not seconds.any():
        return None
    demand = (weights @ seconds) / np.maximum(weights @ load.told_audio, 1e-12)
    details: dict[str, float | str | None] = {"card_seconds_per_audio_second": float(demand[0]), "by": series}
    why = f"at most, by {series}: {demand[0]:.3f} s of the card at work for a second of audio"
    if series == ENGINE_ACTIVE and sm.any():
        details["sm_share"] = float(sm.sum() / engine.sum())
        why += f" (its multiprocessors {details['sm_share']:.0%} of that)"
    return answer("card", 1 / np.maximum(demand, 1e-9), len(load.requests), f"{why}, {ASSUMED}", details)


def per_card(
    group: Sequence[Process],
    limits: Sequence[LimitAnswer],
    fits: Mapping[str, MemoryFit],
    caps: Mapping[str, float],
    cores: int | None,
) -> PerCard | None:
    """One process beside its card; None where no frame was timed by a device."""
    if not any(sum(process.limits.values()) for process in group):
        return None
    word = who_limits(group)
    own = [limit.streams for limit in limits if limit.name != "card" and limit.streams is not None]
    streams = (floor(min(own)) or 0) if own else 0
    told = (limit.streams for limit in limits if limit.name == "card" and not limit.at_least)
    kernels = next((floor(most) for most in told if most is not None), None)
    memory = None
    if fits and all(math.isfinite(cap) for cap in caps.values()):
        memory = min(
            math.floor(caps[name] / max(float(fit.quantile(float(max(streams, 1)))[0]), 1e-9))
            for name, fit in fits.items()
        )
    useful = None
    if kernels is not None and streams:
        useful = max(1, min(each for each in (math.ceil(kernels / streams), memory, cores) if each is not None))
    text = f"One process holds {streams} stream{'s' if streams != 1 else ''}; its limit: {word.words}. "
    if word in {Limit.CARD, Limit.OTHER_PROCESS}:
        text += "More processes on this card would hold no more."
        return PerCard(word.words, streams, kernels, memory, cores, 1, text)
    if kernels is None:
        text += "What the card's kernels would carry is not known: sample a frame (vibevoice-otel gpu sample)."
    else:
        allowed = (
            f"memory allows {memory} process{'es' if memory != 1 else ''}"
            if memory is not None
            else "memory is not known"
        )
        text += f"At most {kernels} on the card by kernel time, {ASSUMED.split(';', maxsplit=1)[0]}; {allowed}, "
        text += f"cores {cores}" if cores is not None else "cores were not told (--cores)"
        text += "; not measured above one process."
    if not streams:
        text += " Alone it is slower than speech, which more processes do not change: "
        text += "fewer launches (CUDA graphs, torch.compile) or a faster core do."
    elif useful is not None:
        text += f" Run up to {useful} process{'es' if useful != 1 else ''}."
    return PerCard(word.words, streams, kernels, memory, cores, useful, text)
