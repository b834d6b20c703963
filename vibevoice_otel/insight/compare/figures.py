"""The figures that are compared, and how each is read from a source: one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.cells import ENDED, FAILED
from vibevoice_otel.insight.compare.effect import Scale, Side
from vibevoice_otel.insight.source import Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: A request whose worst gap is longer is heard as broken (the continuity objective's limit, seconds).
GAP_SECONDS = 0.1
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One side's figure, and the histogram's edges where the figure is a quantile."""

    side: Side
    edges: Floats | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of which less is better.

    Args:
        name: for people.
        unit: "s", "%" (a share of requests) or "x" (a ratio).
        strata: the labels within which it is compared.
        read: what reads it, from a source in so many blocks of time.
        quantile: which, where it is one.
        scale: whether a change is told relative or absolute.
    """

    name: str
    unit: str
    strata: Key
    read: Callable[[Source, int], Reading]
    quantile: float | None = None
    scale: Scale = "ratio"


def _table(source: Source, series: str, by: Key, blocks: int) -> dict[Key, Floats]:
    """Growth by labels, shape (blocks,) each; an absent stretch is nothing."""
    found: dict[Key, Floats] = {}
    for track in source.growths(series, by, blocks):
        key = tuple(track.labels.get(name, "") for name in by)
        found[key] = found.get(key, 0.0) + np.nan_to_num(track.values)
    return found


def _side(
    strata: Sequence[Key],
    blocks: int,
    numerator: Mapping[Key, Floats],
    count: Mapping[Key, Floats],
    under: Mapping[Key, Floats] | None = None,
) -> Side:
    def columns(values: Mapping[Key, Floats]) -> Floats:
        rows = [values.get(key, np.zeros(blocks)) for key in strata]
        return np.stack(rows, axis=1) if rows else np.zeros((blocks, 0))

    return Side(tuple(strata), columns(numerator), columns(count), None if under is None else columns(under))


def histogram(metric: str, by: Key) -> Callable[[Source, int], Reading]:
    """The whole histogram in each stratum."""

    def read(source: Source, blocks: int) -> Reading:
        buckets = _table(source, f"{metric}_bucket", (*by, "le"), blocks)
        edges = sorted({float(key[-1]) for key in buckets})
        strata = sorted({key[:-1] for key in buckets})
        cumulative = np.zeros((blocks, len(strata), len(edges)))
        for key, values in buckets.items():
            cumulative[:, strata.index(key[:-1]), edges.index(float(key[-1]))] = values
        # A process with other bounds lacks some edges; there the count is at least that of the edge below.
        counts = np.diff(np.maximum.accumulate(cumulative, axis=2), axis=2, prepend=0.0)
        return Reading(Side(tuple(strata), counts, counts.sum(axis=2)), np.array(edges))

    return read


def above(metric: str, by: Key, limit: float) -> Callable[[Source, int], Reading]:
    """The share of values above ``limit``, which is exact where it is one of the histogram's edges."""
    whole = histogram(metric, by)

    def read(source: Source, blocks: int) -> Reading:
        found = whole(source, blocks)
        assert found.edges is not None
        first = int(np.searchsorted(found.edges, limit * (1 + 1e-9)))
        return Reading(Side(found.side.strata, found.side.numerator[:, :, first:].sum(axis=2), found.side.count))

    return read


def mean(metric: str, by: Key) -> Callable[[Source, int], Reading]:
    """The mean of a histogram's values: its sum over its count, exact."""

    def read(source: Source, blocks: int) -> Reading:
        sums, counts = (_table(source, f"{metric}_{part}", by, blocks) for part in ("sum", "count"))
        return Reading(_side(sorted(counts), blocks, sums, counts))

    return read


def part(
    metric: str, by: Key, label: str, bad: Sequence[str], of: Sequence[str] | None = None
) -> Callable[[Source, int], Reading]:
    """The share of a counter's events whose ``label`` is in ``bad``, among those in ``of`` (all by default)."""

    def read(source: Source, blocks: int) -> Reading:
        events = _table(source, metric, (*by, label), blocks)
        numerator: dict[Key, Floats] = {}
        count: dict[Key, Floats] = {}
        for (*stratum, value), grown in events.items():
            key = tuple(stratum)
            if of is None or value in of:
                count[key] = count.get(key, 0.0) + grown
                numerator[key] = numerator.get(key, 0.0) + grown * (value in bad)
        return Reading(_side(sorted(count), blocks, numerator, count))

    return read


def per(metric: str, under: str, by: Key) -> Callable[[Source, int], Reading]:
    """One counter over another, weighted by requests."""

    def read(source: Source, blocks: int) -> Reading:
        upper, lower = (_table(source, name, by, blocks) for name in (metric, under))
        requests = _table(source, semconv.REQUESTS.prometheus, by, blocks)
        strata = sorted(key for key in lower if lower[key].sum() > 0)
        return Reading(_side(strata, blocks, upper, requests, lower))

    return read


SETTING: Key = ("voice", "cfg", "steps")
FIRST: Key = (*SETTING, "text_length_range")
_FIRST_AUDIO = histogram(semconv.FIRST_AUDIO.prometheus, FIRST)
_FAILED = part(semconv.REQUESTS.prometheus, SETTING, "status", FAILED, ENDED)
FIGURES: tuple[Figure, ...] = (
    Figure("first audio, median", "s", FIRST, _FIRST_AUDIO, 0.5),
    Figure("first audio, P95", "s", FIRST, _FIRST_AUDIO, 0.95),
    Figure(
        f"first audio after {semconv.SLO_FIRST_AUDIO_SECONDS:g} s", "%", FIRST,
        above(semconv.FIRST_AUDIO.prometheus, FIRST, semconv.SLO_FIRST_AUDIO_SECONDS), scale="difference",
    ),
    Figure(
        f"worst gap above {GAP_SECONDS * 1000:g} ms", "%", ("voice",),
        above(semconv.GAP.prometheus, ("voice",), GAP_SECONDS), scale="difference",
    ),
    Figure("real-time factor", "x", SETTING, mean(semconv.RTF.prometheus, SETTING)),
    Figure("diffusion step", "s", (*SETTING, "clock"), mean(semconv.INFERENCE.prometheus, (*SETTING, "clock"))),
    Figure(
        "language model pass", "s", ("voice", "branch", "clock"),
        mean(semconv.LM_DURATION.prometheus, ("voice", "branch", "clock")),
    ),
    Figure(
        "failed", "%", SETTING, _FAILED, scale="difference"
    ),
    Figure(
        "cut off by the length budget", "%", ("voice",),
        part(semconv.FINISHED.prometheus, ("voice",), "finish_reason", (semconv.FinishReason.LENGTH.value,)),
        scale="difference",
    ),
    Figure(
        "generating, a second of audio", "s", ("voice",),
        per(semconv.GENERATE_BUSY.prometheus, semconv.AUDIO_PRODUCED.prometheus, ("voice",)),
    ),
)  # fmt: skip
#: Compared voice by voice too: a voice that alone got worse moves the whole by a twenty-fifth.
BY_VOICE: tuple[Figure, ...] = (
    Figure("first audio, mean", "s", FIRST, mean(semconv.FIRST_AUDIO.prometheus, FIRST)),
    Figure("failed", "%", SETTING, _FAILED, scale="difference"),
)


def shown(value: float, unit: str) -> str:
    """A figure for people."""
    if not math.isfinite(value):
        return "–"
    if unit == "s":
        return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"
    return f"{value:.2%}" if unit == "%" else f"{value:.3f}"
