"""The figures that are compared, and how each is read from a source: one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.arrays import Floats
from vibevoice_otel.insight.cells import ENDED, FAILED, Key, bucketed, growths
from vibevoice_otel.insight.compare import energy
from vibevoice_otel.insight.compare.effect import Scale, Side, side
from vibevoice_otel.insight.observations import TIMED
from vibevoice_otel.insight.source import Source
from vibevoice_otel.semconv import Clock

#: Raises TooLittle where two sides cannot be held against each other, given the margin of what does not matter.
Check = Callable[[Side, Side, float], None]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of which less is better.

    Args:
        name: for people.
        unit: "s", "J", "%" (a share of requests) or "x" (a ratio).
        strata: the labels within which it is compared.
        read: what reads it, from a source in so many blocks of time.
        quantile: which, where it is one.
        scale: whether a change is told relative or absolute.
        check: what may stand against the comparison of two sides.
    """

    name: str
    unit: str
    strata: Key
    read: Callable[[Source, int], Side]
    quantile: float | None = None
    scale: Scale = "ratio"
    check: Check | None = None


def histogram(metric: str, by: Key, source: Source, blocks: int) -> Side:
    """The whole histogram in each stratum."""
    strata, edges, found = bucketed(growths(source, f"{metric}_bucket", (*by, "le"), blocks))
    counts = np.moveaxis(found.reshape(*found.shape[:2], blocks), 2, 0)
    return Side(tuple(strata), counts, counts.sum(axis=2), edges=edges)


def above(metric: str, by: Key, limit: float, source: Source, blocks: int) -> Side:
    """The share of values above ``limit``, which is exact where it is one of the histogram's edges."""
    found = histogram(metric, by, source, blocks)
    assert found.edges is not None
    first = int(np.searchsorted(found.edges, limit * (1 + 1e-9)))
    return Side(found.strata, found.numerator[:, :, first:].sum(axis=2), found.count)


def mean(metric: str, by: Key, source: Source, blocks: int) -> Side:
    """The mean of a histogram's values: its sum over its count, exact."""
    sums, counts = (growths(source, f"{metric}_{part}", by, blocks) for part in ("sum", "count"))
    return side(sorted(counts), blocks, sums, counts)


def part(
    metric: str, by: Key, label: str, bad: Sequence[str], of: Sequence[str] | None, source: Source, blocks: int
) -> Side:
    """The share of a counter's events whose ``label`` is in ``bad``, among those in ``of`` (None for all)."""
    numerator: dict[Key, Floats] = {}
    count: dict[Key, Floats] = {}
    for (*stratum, value), grown in growths(source, metric, (*by, label), blocks).items():
        key = tuple(stratum)
        if of is None or value in of:
            count[key] = count.get(key, 0.0) + grown
            numerator[key] = numerator.get(key, 0.0) + grown * (value in bad)
    return side(sorted(count), blocks, numerator, count)


def per(metric: str, under: str, by: Key, source: Source, blocks: int) -> Side:
    """One counter over another, weighted by requests."""
    upper, lower = (growths(source, name, by, blocks) for name in (metric, under))
    requests = growths(source, semconv.REQUESTS.prometheus, by, blocks)
    strata = sorted(key for key in lower if lower[key].sum() > 0)
    return side(strata, blocks, upper, requests, lower)


def card_seconds(source: Source, blocks: int) -> Side:
    """Seconds by the device's clock, over the audio of those frames whose steps it timed; weighted by requests."""
    timed: dict[Key, Floats] = {}
    for metric in TIMED:
        for (voice, clock), grown in growths(source, f"{metric.prometheus}_sum", ("voice", "clock"), blocks).items():
            if clock == Clock.DEVICE:
                timed[voice,] = timed.get((voice,), 0.0) + grown
    steps = growths(source, f"{semconv.INFERENCE.prometheus}_count", ("voice", "clock"), blocks)
    audio, requests = (
        growths(source, metric.prometheus, ("voice",), blocks) for metric in (semconv.AUDIO_PRODUCED, semconv.REQUESTS)
    )
    under: dict[Key, Floats] = {}
    for (voice,) in timed.keys() & audio.keys():
        device, host = (steps.get((voice, clock), np.zeros(blocks)) for clock in (Clock.DEVICE, Clock.HOST))
        under[voice,] = audio[voice,] * device / np.maximum(device + host, 1e-9)
    return side(sorted(key for key in under if under[key].sum() > 0), blocks, timed, requests, under)


SETTING: Key = ("voice", "cfg", "steps")
FIRST: Key = (*SETTING, "text_length_range")
_FIRST_AUDIO = partial(histogram, semconv.FIRST_AUDIO.prometheus, FIRST)
_FAILED = partial(part, semconv.REQUESTS.prometheus, SETTING, "status", FAILED, ENDED)
FIGURES: tuple[Figure, ...] = (
    Figure("first audio, median", "s", FIRST, _FIRST_AUDIO, 0.5),
    Figure("first audio, P95", "s", FIRST, _FIRST_AUDIO, 0.95),
    Figure(
        f"first audio after {semconv.SLO_FIRST_AUDIO_SECONDS:g} s", "%", FIRST,
        partial(above, semconv.FIRST_AUDIO.prometheus, FIRST, semconv.SLO_FIRST_AUDIO_SECONDS), scale="difference",
    ),
    Figure(
        f"worst gap above {semconv.SLO_GAP_SECONDS * 1000:g} ms", "%", ("voice",),
        partial(above, semconv.GAP.prometheus, ("voice",), semconv.SLO_GAP_SECONDS), scale="difference",
    ),
    Figure("real-time factor", "x", SETTING, partial(mean, semconv.RTF.prometheus, SETTING)),
    Figure(
        "diffusion step", "s", (*SETTING, "clock"),
        partial(mean, semconv.INFERENCE.prometheus, (*SETTING, "clock")),
    ),
    Figure(
        "language model pass", "s", ("voice", "branch", "clock"),
        partial(mean, semconv.LM_DURATION.prometheus, ("voice", "branch", "clock")),
    ),
    Figure(
        "failed", "%", SETTING, _FAILED, scale="difference"
    ),
    Figure(
        "cut off by the length budget", "%", ("voice",),
        partial(
            part, semconv.FINISHED.prometheus, ("voice",), "finish_reason", (semconv.FinishReason.LENGTH.value,), None
        ),
        scale="difference",
    ),
    Figure(
        "generating, a second of audio", "s", ("voice",),
        partial(per, semconv.GENERATE_BUSY.prometheus, semconv.AUDIO_PRODUCED.prometheus, ("voice",)),
    ),
    Figure("card by its clock, a second of audio", "s", ("voice",), card_seconds),
    Figure("energy, a second of audio", "J", ("voice",), energy.read, check=energy.check),
)  # fmt: skip
#: Compared voice by voice too: a voice that alone got worse moves the whole by a twenty-fifth.
BY_VOICE: tuple[Figure, ...] = (
    Figure("first audio, mean", "s", FIRST, partial(mean, semconv.FIRST_AUDIO.prometheus, FIRST)),
    Figure("failed", "%", SETTING, _FAILED, scale="difference"),
)


def shown(value: float, unit: str) -> str:
    """A figure for people."""
    if not math.isfinite(value):
        return "–"
    if unit == "s":
        return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"
    if unit == "J":
        return f"{value:.1f} J"
    return f"{value:.2%}" if unit == "%" else f"{value:.3f}"
