"""Pairs of sides with a known difference, as histograms in blocks of time: what a comparison is tried on.

Requests of a block share a load (a log-normal factor), as requests that share a queue and a card do. Each side has a
card of its own, about half of whose time its requests take; it draws ``IDLE`` W, and ``WORKING`` W more while it works.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.compare.effect import Side
from vibevoice_otel.insight.compare.energy import Energy, allocated

EDGES = np.array([*semconv.FIRST_AUDIO_BUCKETS, np.inf])
VOICES = tuple(f"voice{n}" for n in range(5))
LENGTHS = ("short", "medium", "long")
STRATA = tuple((voice, "1.5", "5", length) for voice in VOICES for length in LENGTHS)
#: The median of each stratum's first audio, seconds: longer texts and later voices are slower.
MEDIANS = np.array([0.18 * (1 + 0.15 * v) * (1 + 0.25 * n) for v in range(len(VOICES)) for n in range(len(LENGTHS))])
SIGMA = 0.35
#: Watts of a card.
IDLE, WORKING = 80.0, 250.0
#: Seconds of the card that a second of audio takes the first voice, and of audio in a request.
CARD, AUDIO = 0.2, 10.0


@dataclass(frozen=True)
class Truth:
    """How side B differs from side A."""

    scale: float = 1.0  # all of B's values times this
    tail: float = 1.0  # the slowest tenth of B's values times this
    one_voice: float = 1.0  # one voice's values times this
    mix: float = 0.0  # B's requests lean towards the slow strata
    load: float = 0.1  # how much blocks differ, both sides
    failing: tuple[float, float] = (0.01, 0.01)


def requests(truth: Truth, n: int, blocks: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """One side's requests: block, stratum, seconds, failed; ``truth`` is what this side is like."""
    shares = np.exp(truth.mix * np.linspace(-1, 1, len(STRATA)))
    stratum = rng.choice(len(STRATA), n, p=shares / shares.sum())
    block = rng.integers(0, blocks, n)
    load = rng.normal(0, truth.load, blocks)
    z = rng.normal(size=n)
    seconds = MEDIANS[stratum] * np.exp(SIGMA * z + load[block]) * truth.scale
    seconds = np.where(z > 1.2816, seconds * truth.tail, seconds)
    seconds = np.where(stratum < len(LENGTHS), seconds * truth.one_voice, seconds)
    return block, stratum, seconds, rng.uniform(size=n) < truth.failing[1]


def histogram(block: np.ndarray, stratum: np.ndarray, seconds: np.ndarray, blocks: int) -> Side:
    shape = (blocks, len(STRATA), len(EDGES))
    bucket = np.searchsorted(EDGES, seconds, side="left")
    counts = np.bincount(np.ravel_multi_index((block, stratum, bucket), shape), minlength=int(np.prod(shape)))
    counts = counts.reshape(shape).astype(float)
    return Side(STRATA, counts, counts.sum(axis=2), edges=EDGES)


def means(block: np.ndarray, stratum: np.ndarray, values: np.ndarray, blocks: int) -> Side:
    shape = (blocks, len(STRATA))
    at = np.ravel_multi_index((block, stratum), shape)
    count = np.bincount(at, minlength=int(np.prod(shape))).reshape(shape).astype(float)
    return Side(STRATA, np.bincount(at, values, minlength=int(np.prod(shape))).reshape(shape), count)


@dataclass
class Pair:
    """Both sides' figures."""

    seconds: tuple[Side, Side]  # histograms
    mean: tuple[Side, Side]
    failed: tuple[Side, Side]
    card: tuple[Side, Side]
    energy: tuple[Energy, Energy]

    def naive_p95(self) -> float:
        """What two dashboards' P95 say: pooled over strata, interpolated in the bucket as Prometheus does;
        B / A - 1.
        """
        return prometheus_p95(self.seconds[1]) / prometheus_p95(self.seconds[0]) - 1


def prometheus_p95(side: Side) -> float:
    cumulative = np.cumsum(side.numerator.sum(axis=(0, 1)))
    rank = 0.95 * cumulative[-1]
    at = int(np.searchsorted(cumulative, rank))
    low, high = (EDGES[at - 1] if at else 0.0), EDGES[at]
    if not np.isfinite(high):
        return float(low)
    below = cumulative[at - 1] if at else 0.0
    return float(low + (high - low) * (rank - below) / (cumulative[at] - below))


def pair(truth: Truth, n: int, seed: int, blocks: int = 40) -> Pair:
    """``n`` requests a side."""
    rng = np.random.default_rng(seed)
    plain = replace(Truth(), load=truth.load, failing=(truth.failing[0], truth.failing[0]))
    sides = [requests(plain, n, blocks, rng), requests(truth, n, blocks, rng)]

    def both(make: object, column: int) -> tuple[Side, Side]:
        a, b = (make(s[0], s[1], s[column].astype(float), blocks) for s in sides)  # type: ignore[operator]
        return a, b

    drawn = [cards(*side[:3], blocks, name, np.random.default_rng([seed, place]))
             for place, (name, side) in enumerate(zip("ab", sides, strict=True))]  # fmt: skip
    return Pair(
        both(histogram, 2), both(means, 2), both(means, 3), (drawn[0][0], drawn[1][0]), (drawn[0][1], drawn[1][1])
    )


def cards(
    block: np.ndarray, stratum: np.ndarray, seconds: np.ndarray, blocks: int, card: str, rng: np.random.Generator
) -> tuple[Side, Energy]:
    """Seconds of a card by voice, and what it draws; a request takes its card as much longer as its first audio."""
    voice, shape = stratum // len(LENGTHS), (blocks, len(VOICES))
    audio = AUDIO * rng.lognormal(-0.125, 0.5, len(block))
    taken = audio * CARD * (1 + 0.15 * voice) * seconds / MEDIANS[stratum]
    at = np.ravel_multi_index((block, voice), shape)
    requests, spoken, worked = (
        np.bincount(at, values, minlength=int(np.prod(shape))).reshape(shape).astype(float)
        for values in (None, audio, taken)
    )
    names = tuple((each,) for each in VOICES)
    there = np.full(blocks, 2.0 * len(block) / blocks * AUDIO * CARD * 1.4)
    joules = IDLE * there + WORKING * worked.sum(axis=1)
    return Side(names, worked, requests, spoken), allocated(
        Side(names, 1.5 * worked, requests, spoken), joules, there, [card]
    )


def more_energy(scale: float) -> float:
    """The true change of a side's energy whose card works ``scale`` times as long: the idle draw stays."""
    working = WORKING * CARD * AUDIO * np.mean(1 + 0.15 * np.arange(len(VOICES))) * np.exp((SIGMA**2 + 0.1**2) / 2)
    idle = IDLE * 2.0 * AUDIO * CARD * 1.4
    return float((scale - 1) * working / (working + idle))
