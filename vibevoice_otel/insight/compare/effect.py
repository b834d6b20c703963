"""How two sides differ in one figure: like strata compared with like, intervals from blocks of time.

A side is cut into blocks of time and into strata (voice, cfg, steps, text length). Each side's figure is computed as if
it had served the same mix of strata (direct standardisation), so that a change of the mix moves nothing. Requests that
share a queue are not independent, so the variance comes from leaving out whole blocks (the delete-one-block jackknife),
and the interval is Student's with Welch and Satterthwaite's degrees of freedom. docs/insight.md names the sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vibevoice_otel.insight.arrays import Blocks, Floats
from vibevoice_otel.insight.cells import Key

Scale = Literal["ratio", "difference"]
#: A stratum that has fewer requests on a side is left out: it says nothing of the side, and its weight would be noise.
LEAST_IN_STRATUM = 10.0
#: Fewer blocks give no variance worth the name.
LEAST_BLOCKS = 6


@dataclass(frozen=True, slots=True)
class Side:
    """One figure of one side.

    Args:
        strata: names of the strata, S of them.
        numerator: shape (B, S) or, for a quantile, the histogram's counts, shape (B, S, K).
        count: requests (or frames, or steps), shape (B, S).
        denominator: what the numerator is divided by, shape (B, S); the count by default.
        edges: the histogram's upper edges, shape (K,).
    """

    strata: tuple[Key, ...]
    numerator: Floats
    count: Floats
    denominator: Floats | None = None
    edges: Floats | None = None

    @property
    def under(self) -> Floats:
        return self.count if self.denominator is None else self.denominator

    def in_strata(self, rows: Sequence[int]) -> Side:
        strata = tuple(self.strata[i] for i in rows)
        return Side(strata, self.numerator[:, rows], self.count[:, rows], self.under[:, rows], self.edges)

    def in_blocks(self, blocks: Blocks) -> Side:
        return Side(self.strata, self.numerator[blocks], self.count[blocks], self.under[blocks], self.edges)


def side(
    strata: Sequence[Key],
    blocks: int,
    numerator: Mapping[Key, Floats],
    count: Mapping[Key, Floats],
    under: Mapping[Key, Floats] | None = None,
) -> Side:
    """One figure of one side from its counters' growth, shape (blocks,) each; what is absent is nothing."""

    def columns(values: Mapping[Key, Floats]) -> Floats:
        rows = [values.get(key, np.zeros(blocks)) for key in strata]
        return np.stack(rows, axis=1) if rows else np.zeros((blocks, 0))

    return Side(tuple(strata), columns(numerator), columns(count), None if under is None else columns(under))


@dataclass(frozen=True, slots=True)
class Effect:
    """B against A. ``change`` is B / A - 1 for a ratio, B - A for a difference; ``low`` and ``high`` bound it at
    ``confidence``.
    """

    a: float
    b: float
    change: float
    low: float
    high: float
    p: float
    confidence: float
    scale: Scale
    n_a: float
    n_b: float
    compared: float  # share of both sides' requests that lie in strata which both have


class TooLittle(ValueError):  # noqa: N818 - an answer, not an error
    """The sides do not hold enough to compare; the message says of what."""


def effect(
    a: Side,
    b: Side,
    *,
    scale: Scale,
    quantile: float | None = None,
    confidence: float = 0.95,
    paired: bool = False,
) -> Effect:
    """Compare ``b`` with ``a``.

    Args:
        a: the side compared with, such as before, or the stable version.
        b: the side in question.
        scale: whether the change is relative, or absolute as for shares of requests. A share's variance is at least
            the binomial's, so that a side without any failure does not look certain.
        quantile: which, where the numerators are histograms.
        confidence: of the interval.
        paired: both sides' blocks are the same stretches of time, so that what slows both at once (a shared card)
            cancels.

    Raises:
        TooLittle: when no stratum has enough on both sides, or there are too few blocks of time, or the sides'
            histograms differ in their edges.
    """
    from scipy.stats import t as student

    if a.edges is not None and b.edges is not None and not np.array_equal(a.edges, b.edges):
        raise TooLittle("the two sides' histograms have different bucket edges")
    a, b, weights, share = _common(a, b)
    if paired:
        both = (a.count.sum(axis=1) > 0) & (b.count.sum(axis=1) > 0)
        a, b = a.in_blocks(both), b.in_blocks(both)
    (at_a, left_a), (at_b, left_b) = (_leave_out(side, weights, quantile, scale) for side in (a, b))
    moved = [left_b - left_a] if paired else [left_a, left_b]
    variances = [_variance(each) for each in moved]
    error, freedom = math.sqrt(sum(variances)), _welch(moved, variances)
    if scale == "difference":
        error = max(error, math.sqrt(_binomial(a, weights) + _binomial(b, weights)))
    estimate = math.log(at_b / at_a) if scale == "ratio" else at_b - at_a
    half = float(student.ppf((1 + confidence) / 2, freedom)) * error
    p = 2 * float(student.sf(abs(estimate) / error, freedom)) if error > 0 else float(estimate == 0)
    bounds = [estimate, estimate - half, estimate + half]
    change, low, high = (math.expm1(x) for x in bounds) if scale == "ratio" else bounds
    return Effect(
        at_a, at_b, change, low, high, p, confidence, scale, float(a.count.sum()), float(b.count.sum()), share
    )


def _common(a: Side, b: Side) -> tuple[Side, Side, Floats, float]:
    """Both sides in the strata that both have enough of, and each stratum's weight: its share of all requests."""
    rows_a = {name: i for i, name in enumerate(a.strata) if a.count[:, i].sum() >= LEAST_IN_STRATUM}
    rows_b = {name: i for i, name in enumerate(b.strata) if b.count[:, i].sum() >= LEAST_IN_STRATUM}
    both = [name for name in rows_a if name in rows_b]
    everything = float(a.count.sum() + b.count.sum())
    if not both:
        raise TooLittle(
            f"no voice and setting has {LEAST_IN_STRATUM:.0f} requests on both sides"
            if everything
            else "there is nothing on either side"
        )
    a, b = a.in_strata([rows_a[name] for name in both]), b.in_strata([rows_b[name] for name in both])
    weights = a.count.sum(axis=0) + b.count.sum(axis=0)
    return a, b, weights / weights.sum(), float(weights.sum()) / everything


def _leave_out(side: Side, weights: Floats, quantile: float | None, scale: Scale) -> tuple[float, Floats]:
    """The standardised figure, and the same (its logarithm for a ratio) without each block of time in turn,
    shape (B,).
    """
    side = side.in_blocks(side.count.sum(axis=1) > 0)
    numerator, under = side.numerator, side.under
    if len(under) < LEAST_BLOCKS:
        raise TooLittle(f"only {len(under)} blocks of time hold requests; {LEAST_BLOCKS} are needed")
    sums = numerator.sum(axis=0)[None], under.sum(axis=0)[None]
    whole = float(_standardised(*sums, weights, quantile, side.edges)[0])
    left = _standardised(sums[0] - numerator, sums[1] - under, weights, quantile, side.edges)
    if scale == "ratio":
        if not whole > 0 or not (left > 0).all():
            raise TooLittle("a side's figure is zero")
        left = np.log(left)
    return whole, left


def _variance(left: Floats) -> float:
    """The jackknife's variance from the figures without each block."""
    return (len(left) - 1) / len(left) * float(((left - left.mean()) ** 2).sum())


def _standardised(
    numerator: Floats, under: Floats, weights: Floats, quantile: float | None, edges: Floats | None
) -> Floats:
    """The figure of the standard mix, shape (R,), from sums of shape (R, S) or counts of shape (R, S, K)."""
    present = under > 0
    mix = np.where(present, weights, 0.0)
    mix = mix / mix.sum(axis=1, keepdims=True)
    safe = np.where(present, under, 1.0)
    if quantile is None or edges is None:
        return np.asarray((mix * numerator / safe).sum(axis=1), np.float64)
    counts = np.einsum("rs,rsk->rk", mix / safe, numerator)
    return quantiles(np.cumsum(counts, axis=1), edges, quantile)


def quantiles(cumulative: Floats, edges: Floats, q: float) -> Floats:
    """The ``q`` quantile of each row of cumulative shares, shape (R, K), at upper ``edges``, shape (K,), the last
    infinite.

    Interpolated on the normal probability scale against the logarithm of the value: exact where values are log-normal,
    as waits and latencies nearly are. Linear interpolation would move with the place of the quantile in its bucket,
    which is not the same on both sides.
    """
    from scipy.stats import norm

    finite = edges[np.isfinite(edges)]
    share = np.clip(cumulative[:, : len(finite)] / cumulative[:, -1:], 1e-9, 1 - 1e-9)
    z, x = norm.ppf(share), np.log(finite)
    wanted = float(norm.ppf(q))
    # The first edge at or above the quantile; where it lies in the first or the last bucket its neighbour's slope goes
    # on.
    above = np.clip((z < wanted).sum(axis=1), 1, len(finite) - 1)
    rows = np.arange(len(z))
    z1, z0 = z[rows, above], z[rows, above - 1]
    slope = np.where(z1 > z0, (x[above] - x[above - 1]) / np.where(z1 > z0, z1 - z0, 1.0), 0.0)
    return np.asarray(np.exp(x[above - 1] + slope * (wanted - z0)), np.float64)


def _binomial(side: Side, weights: Floats) -> float:
    """The variance that independent requests alone would give a standardised share.

    One share (Agresti and Coull's) serves all strata, since most strata alone have no failure to go by.
    """
    n = side.count.sum(axis=0)
    share = (float(side.numerator.sum()) + 1) / (float(n.sum()) + 2)
    return float((weights**2 / n).sum()) * share * (1 - share)


def _freedom(left: Floats) -> float:
    """Degrees of freedom of the jackknife's variance, by the kurtosis of what each block moves.

    For normal values it is one less than the blocks; where a few blocks move most of the figure, as of a tail's
    quantile, it is less (Box, 1953: the variance of a variance).
    """
    n, moved = len(left), left - left.mean()
    spread = float((moved**2).mean())
    if spread == 0:
        return float(n - 1)
    kurtosis = max(float((moved**4).mean()) / spread**2, 3.0)
    return 2 * n / (kurtosis - (n - 3) / (n - 1))


def _welch(sides: Sequence[Floats], variances: Sequence[float]) -> float:
    total = sum(variances)
    if total == 0:
        return float(sum(len(left) - 1 for left in sides))
    return total**2 / sum(v**2 / _freedom(left) for v, left in zip(variances, sides, strict=True))
