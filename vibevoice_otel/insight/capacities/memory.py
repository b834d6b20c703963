"""Memory against streams: a straight line with a spread that grows with it, from resampled blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vibevoice_otel.insight.arrays import Floats
from vibevoice_otel.insight.capacities.answers import LimitAnswer, MemoryCurve, floor
from vibevoice_otel.insight.capacities.load import LEAST_BLOCKS, bootstrap, inflate, interval, unanswered
from vibevoice_otel.insight.observations import Process, blocks
from vibevoice_otel.insight.source import gib

Z_MEMORY = 2.326  # the line is drawn where 99 % of moments lie below
_SCALE = 2.0**30


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """``base + slope * n`` GiB on average, with variance ``noise + spread * n`` and third moment ``skew * n`` about it.

    Arrays are (draws,), the first from all blocks.
    """

    base: Floats
    slope: Floats
    noise: Floats
    spread: Floats
    skew: Floats
    overhead: float  # reserved over allocated at their highest: fragmentation and the allocator's cache
    transient: float  # GiB by which the peak exceeds what the line explains
    peak: float  # GiB
    limit: float  # GiB, the card's; NaN where not reported
    most: float  # streams seen at once
    samples: int
    levels: int  # how many different numbers of streams were seen
    curved: bool

    def quantile(self, streams: Floats | float) -> Floats:
        """GiB, fragmentation included, below which 99 % of moments with ``streams`` streams lie; (draws,).

        Cornish and Fisher's expansion: a few long texts make the upper end longer than a normal distribution's.
        """
        variance = np.maximum(self.noise + self.spread * streams, 1e-12)
        tail = Z_MEMORY * np.sqrt(variance) + (Z_MEMORY**2 - 1) / 6 * self.skew * streams / variance
        return (self.base + self.slope * streams + tail + self.transient) * self.overhead

    def capacity(self, limit: float) -> Floats:
        """Streams that fit in ``limit`` GiB in 99 % of moments; infinite where memory does not grow with streams;
        (draws,).
        """
        with np.errstate(divide="ignore"):
            most = np.where(self.slope > 0, limit / np.maximum(self.slope, 1e-12), 0.0)
        low, high = np.zeros_like(most), most
        for _ in range(50):
            middle = (low + high) / 2
            fits = self.quantile(middle) <= limit
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        return np.where(self.slope > 0, low, np.inf)


def fit(
    processes: Sequence[Process], device_id: str, slots: int | None, size: int, draws: int, rng: np.random.Generator
) -> MemoryFit | None:
    """Fit one card of like processes; None when its memory was not reported.

    ``slots``: how many requests the service works on at once, where known: those that still wait hold no memory.
    """
    seen = [(p.active, d) for p in processes if (d := p.devices.get(device_id)) is not None]
    known = [device.allocated for _, device in seen if not np.isnan(device.allocated).all()]
    if not known:
        return None
    origin = float(np.nanmean(np.concatenate(known))) / _SCALE  # powers of what is far from zero lose digits
    moments, raw = [], []
    for active, device in seen:
        both = ~np.isnan(active) & ~np.isnan(device.allocated)
        n = np.minimum(active, slots or np.inf)
        m = device.allocated / _SCALE - origin
        raw.append(np.array([n, m])[:, both])
        moments.append(blocks(np.where(both, _powers(n, m), 0.0), size))
    n_all, m_all = np.concatenate(raw, axis=1)
    if not n_all.size:
        return None
    block = np.concatenate(moments, axis=1)
    block = block[:, block[0] > 0]
    if block.shape[1] < 2:
        block = _powers(n_all, m_all)
    weights = bootstrap(block.shape[1], draws, rng)
    base, slope, noise, spread, skew = _moments_to_line(block @ weights.T)
    base, m_all = base + origin, m_all + origin
    peak = max(float(m_all.max()), max(most(d.peak) for _, d in seen) / _SCALE)
    pools = [most(d.reserved) / max(most(d.peak), most(d.allocated)) for _, d in seen if most(d.reserved) > 0]
    limits = [most(d.limit) for _, d in seen if most(d.limit) > 0]
    seen_at_once = float(n_all.max())
    # The highest of many moments lies above their 99 % quantile by chance alone; only beyond that is a peak
    # unexplained.
    extreme = Z_MEMORY + np.sqrt(2 * np.log(max(len(n_all) / 100, 1.0)))
    between = seen_at_once + 2  # a stream or two may have come and gone between two scrapes
    explained = float(base[0] + slope[0] * between + extreme * np.sqrt(max(noise[0] + spread[0] * between, 0.0)))
    return MemoryFit(
        base,
        slope,
        noise,
        spread,
        skew,
        max(1.0, *pools) if pools else 1.0,
        max(0.0, peak - explained),
        peak,
        min(limits) / _SCALE if limits else float("nan"),
        seen_at_once,
        len(n_all),
        len(np.unique(n_all)),
        _curved(n_all, m_all, size),
    )


def most(values: Floats) -> float:
    """The highest that is known; 0 where nothing is."""
    return float(np.nanmax(values)) if not np.isnan(values).all() else 0.0


def _powers(n: Floats, m: Floats) -> Floats:
    return np.stack([np.ones_like(n), n, n**2, n**3, m, n * m, n**2 * m, m**2, n * m**2, m**3])


def _moments_to_line(sums: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Least squares for the mean, then moments of the residuals, from sums of powers; all (draws,)."""
    one, n, n2, n3, m, nm, n2m, m2, nm2, m3 = sums
    determinant = one * n2 - n**2
    with np.errstate(divide="ignore", invalid="ignore"):
        b = np.where(determinant > 1e-9, (one * nm - n * m) / determinant, 0.0)
        a = (m - b * n) / one
        e2 = np.maximum(m2 + a**2 * one + b**2 * n2 - 2 * a * m - 2 * b * nm + 2 * a * b * n, 0.0)
        ne2 = nm2 + a**2 * n + b**2 * n3 - 2 * a * nm - 2 * b * n2m + 2 * a * b * n2
        line1, line2, line3 = (
            a * m + b * nm,
            a * m2 + b * nm2,
            a**3 * one + 3 * a**2 * b * n + 3 * a * b**2 * n2 + b**3 * n3,
        )
        e3 = m3 - 3 * line2 + 3 * (a * line1 + b * (a * nm + b * n2m)) - line3
        spread = np.where(determinant > 1e-9, (one * ne2 - n * e2) / determinant, 0.0)
        noise = (e2 - spread * n) / one
        steep = e2 / np.maximum(n, 1e-9)
    spread, noise = np.where(noise < 0, steep, spread), np.maximum(noise, 0.0)
    noise = np.where(spread < 0, e2 / one, noise)
    return a, b, noise, np.maximum(spread, 0.0), np.maximum(e3, 0.0) / np.maximum(n, 1e-9)


def _curved(n: Floats, m: Floats, size: int) -> bool:
    """Does a parabola fit clearly better? Samples within a block repeat each other, so they count as ``len / size``."""
    if len(np.unique(n)) < 4:
        return False
    line = m - np.polyval(np.polyfit(n, m, 1), n)
    bend = m - np.polyval(np.polyfit(n, m, 2), n)
    gain = float(line @ line - bend @ bend) / max(float(bend @ bend) / max(len(n) - 3, 1), 1e-12)
    return gain / size > 12.0 and float(line.std()) > 0.02 * float(np.ptp(m))


def answer_memory(
    known: dict[str, MemoryFit], caps: dict[str, float], group: Sequence[Process], n_blocks: int, notes: list[str]
) -> tuple[LimitAnswer, Floats | None, MemoryCurve | None, int | None]:
    if not known:
        why = "no GPU memory was reported (a CPU, or no GPU instrumentation): memory cannot be answered"
        return *unanswered("memory", why), None, None
    if any(math.isnan(c) for c in caps.values()):
        return *unanswered("memory", "the card's size was not reported: give it with --gpu-memory"), None, None
    held = {d: f.capacity(caps[d]) for d, f in known.items()}
    tightest = min(held, key=lambda d: float(held[d][0]))
    fit, limit = known[tightest], caps[tightest]
    naive = floor(limit / (fit.peak / fit.most)) if fit.most else None
    if fit.levels < 3 or fit.most < 2:
        why = (
            f"streams ran at {fit.levels} different number(s) at once, {fit.most:.0f} at most: memory cannot be set "
            "against streams"
        )
        return *unanswered("memory", why), None, naive
    if n_blocks < LEAST_BLOCKS:
        few = f"{n_blocks} independent stretches of time, at least {LEAST_BLOCKS} are needed"
        return *unanswered("memory", few), None, naive
    curve = _curve(fit, tightest, group, limit, float(held[tightest][0]))
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
    if np.quantile(fit.slope[1:], 0.025) <= 0:
        why = "memory does not measurably grow with streams in this data"
        return LimitAnswer("memory", None, None, None, why, details=details), None, curve, naive
    sample = np.min([inflate(each, n_blocks) for each in held.values()], axis=0)
    low, high = interval(sample)
    why = f"{gib(float(fit.base[0]) * 2**30)} + {gib(float(fit.slope[0]) * 2**30)} a stream, {limit:.1f} GiB in all"
    return LimitAnswer("memory", float(held[tightest][0]), low, high, why, details=details), sample, curve, naive


def _curve(fit: MemoryFit, device_id: str, group: Sequence[Process], limit: float, capacity_: float) -> MemoryCurve:
    far = max(fit.most, min(capacity_, 50 * max(fit.most, 1.0)) if math.isfinite(capacity_) else fit.most) * 1.1
    grid = np.linspace(0, far, 40)
    bands = np.array([fit.quantile(float(n)) for n in grid])
    devices = ((p.active, d.allocated) for p in group if (d := p.devices.get(device_id)) is not None)
    pairs = np.concatenate([np.array([active, allocated / _SCALE]) for active, allocated in devices], axis=1)
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    thin = [(float(n), float(m)) for n, m in pairs.T[:: max(1, pairs.shape[1] // 1500)]]
    low, high = np.quantile(bands[:, 1:], [0.025, 0.975], axis=1)
    return MemoryCurve(thin, grid.tolist(), bands[:, 0].tolist(), low.tolist(), high.tolist(), limit)
