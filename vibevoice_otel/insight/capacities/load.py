"""Block sums of what like processes did, resampled together, and what follows from them for work and arrivals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from vibevoice_otel.insight.arrays import Floats
from vibevoice_otel.insight.capacities.answers import Limit, LimitAnswer
from vibevoice_otel.insight.observations import DCGM, ENGINE_ACTIVE, Counts, Process, Window, blocks
from vibevoice_otel.insight.stats import CONFIDENCE

LEAST_BLOCKS = 8

LEAST_REQUESTS = 50

# relative standard error for what the models themselves leave out: the variability of waits, the slowing of slots
MODEL_ERROR = 0.1

# and what the queue's model is off by itself, a relative standard error: waits are not quite exponential. The root mean
# square over simulated services (tests/unit/insight/coverage.py), less what resampling explains
QUEUE_ERROR = 0.012

QUIET_WAIT = 0.005  # a mean wait below this is the hand-off of a request, not a queue

Found = tuple[LimitAnswer, "Floats | None"]


@dataclass(slots=True, kw_only=True)
class Load(Counts):
    """Block sums of one kind of card, (blocks,) each, which are resampled together."""

    seconds: Floats
    engine_seconds: Floats  # with the next one, by dcgm-exporter; NaN where it told nothing
    sm_seconds: Floats
    told_audio: Floats  # made while it told
    busy2: Floats  # sum over cells of busy squared over requests
    cells: Floats
    jumps: Floats  # half the squared differences of neighbouring cells' requests
    active: Floats
    active2: Floats
    cross: Floats  # (6, blocks): sums over cells, weighted by audio, of 1, made, factor, n, made * factor, made * n


def _cross(process: Process, cell: int, cap: float, step: float) -> Floats:
    audio, busy = blocks(process.audio, cell), blocks(process.busy, cell)
    made, together = audio / (cell * step), blocks(np.minimum(process.active, cap), cell) / cell
    return np.stack([audio, audio * made, busy, audio * together, busy * made, audio * made * together])


def block_sums(window: Window, group: Sequence[Process], size: int, cap: float = math.inf) -> Load:
    """Block sums over like processes, at most ``cap`` of whose streams are at work, the rest waiting.

    A cell, within which requests and their seconds are matched, is about a minute.
    """
    requests = sum(float(p.requests.sum()) for p in group)
    seconds = sum(float(np.count_nonzero(~np.isnan(p.active))) for p in group) * window.step
    per_cell = max(60.0, 5 * seconds / requests) if requests else 60.0
    cell = min(size, max(1, round(per_cell / window.step)))
    size = cell * max(1, round(size / cell))
    parts: list[dict[str, Floats]] = []
    for p in group:
        n_cells, b_cells = blocks(p.requests, cell), blocks(p.busy, cell)
        with np.errstate(divide="ignore", invalid="ignore"):
            square = np.where(n_cells > 0, b_cells**2 / n_cells, 0.0)
        jump = np.append(np.diff(n_cells) ** 2 / 2, 0.0) if n_cells.size else n_cells
        per_block = size // cell
        present = (~np.isnan(p.active)).astype(np.float64)
        engine, sm = (p.at_work.get(series, np.full(len(present), np.nan)) for series in DCGM)
        told = ~np.isnan(engine if ENGINE_ACTIVE in p.at_work else sm)
        rows = {
            **{each.name: blocks(getattr(p, each.name), size) for each in fields(Counts)},
            "seconds": blocks(present * window.step, size),
            "engine_seconds": blocks(engine, size),
            "sm_seconds": blocks(sm, size),
            "told_audio": blocks(np.where(told, p.audio, 0.0), size),
            "busy2": blocks(square, per_block),
            "cells": blocks((n_cells > 0).astype(np.float64), per_block),
            "jumps": blocks(jump, per_block),
            "active": blocks(np.minimum(p.active, cap), size),
            "active2": blocks(np.minimum(p.active, cap) ** 2, size),
            "cross": blocks(_cross(p, cell, cap, window.step), per_block),
        }
        count = min(row.shape[-1] for row in rows.values())
        keep = rows["seconds"][:count] > 0
        parts.append({name: row[..., :count][..., keep] for name, row in rows.items()})
    return Load(**{name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]})


def bootstrap(n_blocks: int, draws: int, rng: np.random.Generator) -> Floats:
    """How often each block counts in each draw of the bootstrap, (1 + draws, blocks); the first draw is the data
    itself.
    """
    if not n_blocks:
        return np.ones((1 + draws, 0))
    return np.vstack([np.ones(n_blocks), rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=draws)])


def service_variation(weights: Floats, load: Load) -> Floats:
    """Squared coefficient of variation of the service time, (draws,), from how busy seconds scatter about requests,
    cell by cell.
    """
    n, busy, busy2, cells = (weights @ x for x in (load.requests, load.busy, load.busy2, load.cells))
    mean = busy / np.maximum(n, 1.0)
    variance = (busy2 - 2 * mean * busy + mean**2 * n) / np.maximum(cells - 1, 1.0)
    result: Floats = np.maximum(variance, 0.0) / np.maximum(mean, 1e-9) ** 2
    return result


def arrival_variation(weights: Floats, load: Load) -> Floats:
    """Dispersion of arrivals, (draws,): 1 as for independent listeners, more where the data clearly shows bursts."""
    cells = float(load.cells.sum())
    seen = (weights @ load.jumps) / np.maximum(weights @ load.requests, 1.0)
    bursty = float(seen[0]) - 2 * math.sqrt(3 / max(cells, 1.0)) > 1
    return np.maximum(seen, 1.0) if bursty else np.ones_like(seen)


def contention(weights: Floats, load: Load, error: Floats | float = 1.0) -> tuple[Floats, Floats]:
    """Real-time factor of a stream when n are at work, ``base + slope n``, (draws,).

    A few scrapes tell badly how many were at work in a cell, which would flatten the slope. So the audio made in the
    cell, which is counted exactly, serves as the instrument (two-stage least squares): slope = cov(made, factor) /
    cov(made, n). Requests that straddle two cells still bias it a little: ``error``, (draws,), is what to allow for
    that.
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


def inflate(sample: Floats, n_blocks: int) -> Floats:
    """Bootstrap draws of few blocks are too narrow: widened about the estimate, in the logarithm, by Student's t over
    normal.
    """
    from scipy.stats import t

    if sample[0] < 1e-6:  # nothing fits: there is no scale to widen on
        return sample[1:]
    factor = float(t.ppf(0.975, max(n_blocks - 2, 1))) / 1.96 * math.sqrt(n_blocks / max(n_blocks - 1, 1))
    centre = math.log(max(float(sample[0]), 1e-9)) if math.isfinite(float(sample[0])) else 0.0
    with np.errstate(divide="ignore"):
        return np.exp(centre + (np.log(np.maximum(sample[1:], 1e-9)) - centre) * factor)


def interval(sample: Floats) -> tuple[float, float]:
    # Order statistics, not interpolation: a draw may be infinite, and infinity times zero is no number.
    low, high = np.quantile(sample, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest")
    return float(low), float(high)


def unanswered(name: Limit, why: str) -> Found:
    """A limit of which nothing can be said."""
    return LimitAnswer(name, None, None, None, why), None


def answer(name: Limit, held: Floats, n_blocks: int, why: str, details: dict[str, float | str | None]) -> Found:
    sample = inflate(held, n_blocks)
    low, high = interval(sample)
    return LimitAnswer(name, float(held[0]), low, high, why, details=details), sample
