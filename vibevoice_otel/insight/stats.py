"""The statistics behind the answers. docs/insight.md names the source of each method.

scipy is imported where it is used: it takes longer to load than the rest of the command.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vibevoice_otel.insight.arrays import Floats

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, its interval at ``CONFIDENCE`` and what it rests on (requests, frames, samples)."""

    value: float
    low: float
    high: float
    n: float


def proportion(k: float, n: float, confidence: float = CONFIDENCE) -> Estimate | None:
    """Share ``k / n`` with Wilson's score interval; None without a single trial."""
    if n < 1:
        return None
    from scipy.stats import binomtest

    trials = round(n)
    interval = binomtest(min(round(k), trials), trials).proportion_ci(confidence, method="wilson")
    return Estimate(k / n, float(interval.low), float(interval.high), n)


def rate(events: float, exposure: float, confidence: float = CONFIDENCE, dispersion: float = 1.0) -> Estimate | None:
    """Events per unit of exposure with Garwood's exact Poisson interval.

    Events that come in clusters carry less information than their number: ``dispersion`` (variance over mean) divides
    it.
    """
    if exposure <= 0:
        return None
    from scipy.stats import chi2

    tail, count = (1 - confidence) / 2, events / dispersion
    low = float(chi2.ppf(tail, 2 * count) / 2) if count > 0 else 0.0
    high = float(chi2.ppf(1 - tail, 2 * (count + 1)) / 2)
    return Estimate(events / exposure, low * dispersion / exposure, high * dispersion / exposure, exposure)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between bucket edges. ``counts[i]`` lies in (edges[i-1], edges[i]]; the last edge is infinite."""

    edges: Floats
    counts: Floats
    total: float  # the sum of the values

    @property
    def n(self) -> float:
        return float(self.counts.sum())

    @property
    def mean(self) -> float:
        return self.total / self.n if self.n else math.nan

    def __add__(self, other: Histogram) -> Histogram:
        if not np.array_equal(self.edges, other.edges):
            raise ValueError("histograms with different bucket edges cannot be added")
        return Histogram(self.edges, self.counts + other.counts, self.total + other.total)

    def above(self, limit: float) -> float:
        """How many values lie above ``limit``. Exact at an edge; elsewhere the whole bucket counts as above (the safe
        side).
        """
        return float(self.counts[np.searchsorted(self.edges * (1 - 1e-12), limit, side="right") :].sum())

    def variance(self) -> float:
        """Variance from the buckets' midpoints around the exact mean, less Sheppard's correction for their width."""
        low = np.concatenate(([0.0], self.edges[:-1]))
        high = np.where(np.isfinite(self.edges), self.edges, np.maximum(2 * low, self.mean))
        middle, width = (low + high) / 2, high - low
        share = self.counts / max(self.n, 1.0)
        middle += self.mean - float(share @ middle)  # the sum is exact, so the mean need not suffer from the buckets
        return max(float(share @ (middle - self.mean) ** 2 - share @ width**2 / 12), 0.0)


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile read from buckets.

    ``value`` is interpolated; None when it lies in the last, open bucket, beyond ``above``. ``low`` and ``high`` bound
    the true quantile at ``CONFIDENCE`` whatever the distribution within the buckets: they are edges, and high may be
    infinite.
    """

    value: float | None
    low: float
    high: float
    above: float | None = None


def quantile(histogram: Histogram, q: float, confidence: float = CONFIDENCE) -> Quantile | None:
    """The ``q`` quantile; None without a single value."""
    n = round(histogram.n)
    if n < 1:
        return None
    from scipy.stats import binom

    tail = (1 - confidence) / 2
    # Order statistics: the true quantile lies between ranks l and u whose binomial probabilities leave `tail` on each
    # side.
    first = int(binom.ppf(tail, n, q))
    last = int(binom.ppf(1 - tail, n, q)) + 1
    cumulative = np.cumsum(histogram.counts)
    edges = np.concatenate(([0.0], histogram.edges))

    def bucket(rank: float) -> int:
        return int(np.searchsorted(cumulative, min(max(rank, 1e-9), histogram.n) - 1e-9, side="left"))

    low = float(edges[bucket(first)]) if first > 0 else 0.0
    high = float(edges[bucket(last) + 1]) if last <= n else math.inf
    at = bucket(q * histogram.n)
    left, right = float(edges[at]), float(edges[at + 1])
    if not math.isfinite(right):
        return Quantile(None, low, high, left)
    below = float(cumulative[at - 1]) if at else 0.0
    value = left + (right - left) * (q * histogram.n - below) / float(histogram.counts[at])
    return Quantile(value, min(low, left), max(high, right))


def discoveries(p_values: Sequence[float], rate: float = 0.05) -> list[bool]:
    """Which of many tests stand out when at most ``rate`` of the named ones may be false alarms (Benjamini and
    Hochberg).
    """
    if not p_values:
        return []
    from scipy.stats import false_discovery_control

    return [bool(p <= rate) for p in false_discovery_control(np.asarray(p_values, dtype=np.float64))]


def stratified_excess(strata: Iterable[Sequence[float] | Floats]) -> tuple[float, float]:
    """Does a group fail more often than the rest, compared only within like strata (Mantel and Haenszel)?

    Args:
        strata: (group bad, group n, rest bad, rest n) for each stratum.

    Returns:
        the common odds ratio (Mantel-Haenszel) and the one-sided p-value. Where the strata hold too few events for the
        normal approximation, p is Fisher's exact of the one informative stratum, or of the sum over several.
    """
    from scipy.stats import hypergeom, norm

    informative = [row for row in strata if row[1] >= 1 and row[3] >= 1 and 0 < row[0] + row[2] < row[1] + row[3]]
    if not informative:
        return 1.0, 1.0
    bad, n, rest_bad, rest_n = np.array(informative, np.float64).T
    total, events = n + rest_n, bad + rest_bad
    variance = float((n * rest_n * events * (total - events) / (total**2 * (total - 1))).sum())
    upper = float((bad * (rest_n - rest_bad) / total).sum())
    lower = float((rest_bad * (n - bad) / total).sum())
    ratio = upper / lower if lower > 0 else math.inf
    if variance >= 5:
        excess = float((bad - n * events / total).sum())
        return ratio, float(norm.sf((excess - 0.5) / math.sqrt(variance)))
    # The sum of independent hypergeometric counts, exactly, by convolution (Gart's exact conditional test of no
    # difference).
    mass = np.ones(1)
    offset = 0
    for whole, marked, drawn in np.rint([total, events, n]).astype(np.int64).T:
        first, last = max(0, drawn + marked - whole), min(marked, drawn)
        mass = np.convolve(mass, hypergeom.pmf(np.arange(first, last + 1), whole, marked, drawn))
        offset += first
    return ratio, float(min(mass[max(round(bad.sum()) - offset, 0) :].sum(), 1.0))


def beta_prior(bad: Sequence[float], n: Sequence[float]) -> tuple[float, float]:
    """The beta distribution from which groups' true shares seem to be drawn (empirical Bayes, maximum likelihood).

    Returns:
        (alpha, beta). With fewer than three groups Jeffreys' prior, which shrinks nothing.
    """
    from scipy.optimize import minimize
    from scipy.special import betaln

    groups = [(round(k), round(m)) for k, m in zip(bad, n, strict=True) if m >= 1]
    if len(groups) < 3:
        return 0.5, 0.5
    k, m = np.array(groups, dtype=np.float64).T
    share = (k.sum() + 0.5) / (m.sum() + 1)

    def loss(point: Floats) -> float:
        mean, size = 1 / (1 + math.exp(-point[0])), math.exp(point[1])
        a, b = mean * size, (1 - mean) * size
        # A weak pull of the size towards 50 requests keeps it finite where all groups agree.
        return float(-np.sum(betaln(k + a, m - k + b) - betaln(a, b)) + 0.5 * ((point[1] - math.log(50)) / 2) ** 2)

    start = np.array([math.log(share / (1 - share)), math.log(50.0)])
    bounds = [(-12.0, 12.0), (0.0, math.log(1e4))]
    found = minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    mean, size = 1 / (1 + math.exp(-found[0])), math.exp(found[1])
    return mean * size, (1 - mean) * size


def logistic(design: Floats, bad: Floats, n: Floats) -> tuple[Floats, Floats] | None:
    """Binomial regression with Firth's penalty, which stays finite when a setting never failed.

    Args:
        design: (cells, k), a column of ones among them.
        bad: (cells,), requests that failed.
        n: (cells,), requests in all.

    Returns:
        log odds ratios and their standard errors, both (k,); None where the settings cannot be told apart.
    """
    beta = np.zeros(design.shape[1])
    for _ in range(60):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        weight = n * p * (1 - p)
        information = design.T @ (weight[:, None] * design)
        if np.linalg.cond(information) > 1e12:
            return None
        covariance = np.linalg.inv(information)
        leverage = weight * np.einsum("ij,jk,ik->i", design, covariance, design)
        step = covariance @ (design.T @ (bad - n * p + leverage * (0.5 - p)))
        beta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return beta, np.sqrt(np.diag(covariance))


def weighted_line(design: Floats, means: Floats, variances: Floats) -> tuple[Floats, Floats] | None:
    """Generalised least squares of cell means whose variances are known.

    Returns:
        coefficients and standard errors, both (k,); None where the settings cannot be told apart. Errors grow by the
        misfit (Birge's ratio) when the cells scatter more than their variances allow.
    """
    information = design.T @ (design / variances[:, None])
    if design.shape[0] < design.shape[1] or np.linalg.cond(information) > 1e12:
        return None
    covariance = np.linalg.inv(information)
    beta = covariance @ (design.T @ (means / variances))
    freedom = design.shape[0] - design.shape[1]
    misfit = float(((means - design @ beta) ** 2 / variances).sum())
    inflate = max(1.0, misfit / freedom) if freedom else 1.0
    return beta, np.sqrt(np.diag(covariance) * inflate)
