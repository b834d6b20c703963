"""Waiting for a turn: c slots that may slow each other down, any service time, waits to first audio.

The chance to wait is that of the birth-death queue with state-dependent service (Erlang's C when slots do not disturb
each other); the length of a wait is scaled by Allen and Cunneen's variability factor. All arrays broadcast over
bootstrap draws.
"""

from __future__ import annotations

import numpy as np

from vibevoice_otel.insight.arrays import Floats, Slots

_GRID = 200  # points of the first-audio distribution; the share late is then good to 0.1 %


def blocking(arrivals: Floats, work: Floats, base: Floats, slope: Floats, slots: Slots) -> Floats:
    """Chance that all slots are taken in a service that refuses rather than queues (Erlang's B).

    Args:
        arrivals: requests a second.
        work: seconds of audio a request.
        base: with ``slope``, the real-time factor of a stream when n are at work, ``base + slope * n``.
        slope: see ``base``.
        slots: requests worked on at once.
    """
    blocked = np.ones(np.broadcast_shapes(np.shape(arrivals), np.shape(work), np.shape(slots)))
    for n in range(1, int(np.max(slots)) + 1):
        offered = arrivals * work * (base + slope * n) / n * blocked
        blocked = np.where(n <= slots, offered / (1 + offered), blocked)
    return blocked


def waiting(arrivals: Floats, work: Floats, base: Floats, slope: Floats, slots: Slots) -> tuple[Floats, Floats]:
    """(chance to wait, utilisation). Utilisation of 1 or more means that the queue grows without end; the chance is
    then 1.
    """
    utilisation = arrivals * work * (base + slope * slots) / slots
    blocked = blocking(arrivals, work, base, slope, slots)
    chance = blocked / np.maximum(1 - utilisation * (1 - blocked), 1e-12)
    return np.where(utilisation < 1, np.minimum(chance, 1.0), 1.0), utilisation


def mean_wait(arrivals: Floats, work: Floats, base: Floats, slope: Floats, slots: Slots, variability: Floats) -> Floats:
    """Mean seconds of waiting over all requests; infinite at a utilisation of 1."""
    chance, utilisation = waiting(arrivals, work, base, slope, slots)
    service = work * (base + slope * slots)
    with np.errstate(divide="ignore"):
        return np.where(
            utilisation < 1, chance * variability * service / (slots * np.maximum(1 - utilisation, 0.0)), np.inf
        )


def at_work(arrivals: Floats, work: Floats, base: Floats, slope: Floats, slots: Slots) -> Floats:
    """Probabilities that 0, 1, ... slots are taken, given that one is free: (most slots, ...)."""
    most = int(np.max(slots))
    with np.errstate(divide="ignore"):
        ratios = [np.log(np.maximum(arrivals * work * (base + slope * n) / n, 1e-300)) for n in range(1, most)]
    logs = np.cumsum(np.stack([np.zeros(np.shape(arrivals)), *ratios]), axis=0)
    free = np.arange(most).reshape(-1, *([1] * np.ndim(arrivals))) < slots
    weight = np.where(free, np.exp(logs - np.where(free, logs, -np.inf).max(axis=0)), 0.0)
    result: Floats = weight / weight.sum(axis=0)
    return result


def slowdown(base: Floats, slope: Floats, count: int) -> Floats:
    """How much slower than alone a stream runs with 1, 2, ... ``count`` at work: (count, ...)."""
    n = np.arange(1, count + 1).reshape(-1, *([1] * np.ndim(base)))
    return (base + slope * n) / np.maximum(base + slope, 1e-12)


def late_share(
    rate: Floats,
    work: Floats,
    base: Floats,
    slope: Floats,
    slots: Slots,
    variability: Floats,
    first: tuple[Floats, Floats],
    limit: float,
) -> Floats:
    """Share of requests whose wait plus own first-audio time exceeds ``limit`` seconds.

    A wait is exponential (so in heavy traffic, whatever the service time). ``first`` holds the mean and standard
    deviation of the logarithm of first audio alone on the machine; it slows as all the work does when others are at
    work.
    """
    from scipy.special import ndtr, ndtri

    centre, sigma = first
    chance, utilisation = waiting(rate, work, base, slope, slots)
    free = at_work(rate, work, base, slope, slots)
    slower = np.log(slowdown(base, slope, len(free)))
    at_once = (free * ndtr((centre + slower - np.log(limit)) / sigma)).sum(axis=0)
    full = base + slope * slots
    positive = variability * work * full / (slots * np.maximum(1 - utilisation, 1e-9))
    z = ndtri((np.arange(_GRID) + 0.5) / _GRID)
    last = np.log(full / np.maximum(base + slope, 1e-12))
    own = np.exp((centre + last)[..., None] + sigma[..., None] * z)
    waited = np.exp(-np.maximum(limit - own, 0.0) / np.maximum(positive, 1e-9)[..., None]).mean(axis=-1)
    return np.where(utilisation < 1, (1 - chance) * at_once + chance * waited, 1.0)
