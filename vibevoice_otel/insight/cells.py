"""What was observed, cut by voice, text length, cfg and steps: the common ground of profiles and recommendations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.arrays import Floats
from vibevoice_otel.insight.source import Source
from vibevoice_otel.insight.stats import Histogram

FAILED = (semconv.Status.ERROR.value, semconv.Status.TIMEOUT.value)
ENDED = (semconv.Status.SUCCESS.value, *FAILED)
#: Values of labels, in the order in which they were asked for; an absent one is an empty string.
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """A combination of cfg and steps as it was labelled; numbers are None where the label stands for many
    (``other``).
    """

    cfg: str
    steps: str

    @property
    def numbers(self) -> tuple[float, int] | None:
        try:
            return float(self.cfg), int(self.steps)
        except ValueError:
            return None


@dataclass(slots=True)
class Cell:
    """One voice at one setting: how requests ended, and how fast they were by text length."""

    voice: str
    setting: Setting
    statuses: dict[str, float] = field(default_factory=dict)
    first_audio: dict[str, Histogram] = field(default_factory=dict)
    real_time: Histogram | None = None

    @property
    def ended(self) -> float:
        """Requests that count for success: neither cancelled nor rejected."""
        return sum(self.statuses.get(s, 0.0) for s in ENDED)

    @property
    def failed(self) -> float:
        return sum(self.statuses.get(s, 0.0) for s in FAILED)

    def first(self) -> Histogram | None:
        """First audio over all text lengths."""
        return total(self.first_audio.values())


def total(histograms: Iterable[Histogram | None]) -> Histogram | None:
    """The sum; None when there is none to add."""
    present = [histogram for histogram in histograms if histogram is not None]
    return sum(present[1:], present[0]) if present else None


def growth(source: Source, series: str, by: Sequence[str]) -> dict[Key, float]:
    """A counter's growth by the labels ``by``."""
    return {tuple(p.labels.get(name, "") for name in by): p.value for p in source.growth(series, by)}


def growths(source: Source, series: str, by: Key, blocks: int) -> dict[Key, Floats]:
    """A counter's growth by the labels ``by`` in blocks of time, shape (blocks,) each; an absent stretch is nothing."""
    found: dict[Key, Floats] = {}
    for track in source.growths(series, by, blocks):
        key = tuple(track.labels.get(name, "") for name in by)
        found[key] = found.get(key, 0.0) + np.nan_to_num(track.values)
    return found


def by_voice(source: Source, series: str) -> dict[str, float]:
    """A counter's growth for each voice."""
    return {voice: grown for (voice,), grown in growth(source, series, ("voice",)).items() if voice}


def bucketed(grown: Mapping[Key, Floats | float]) -> tuple[list[Key], Floats, Floats]:
    """The histograms of a ``_bucket`` series from its growth, by labels of which ``le`` is the last.

    Returns:
        strata (the other labels), edges, and counts between the edges, shape (strata, edges) or, in blocks of time,
        (strata, edges, blocks).
    """
    buckets = {key: values for key, values in grown.items() if key[-1]}
    strata = {key: place for place, key in enumerate(sorted({key[:-1] for key in buckets}))}
    edges = {edge: place for place, edge in enumerate(sorted({float(key[-1]) for key in buckets}))}
    cumulative = np.zeros((len(strata), len(edges), *np.shape(next(iter(buckets.values()), 0.0))))
    for key, values in buckets.items():
        cumulative[strata[key[:-1]], edges[float(key[-1])]] += values  # an edge may be written as 1 and as 1.0
    # A process with other bounds lacks some edges; there the count is at least that of the edge below.
    counts = np.diff(np.maximum.accumulate(cumulative, axis=1), axis=1, prepend=0.0)
    return list(strata), np.array(list(edges), np.float64), counts


def read_histograms(source: Source, series: str, by: Key) -> dict[Key, Histogram]:
    """Histograms by the labels ``by``, where they hold anything."""
    strata, edges, counts = bucketed(growth(source, f"{series}_bucket", (*by, "le")))
    sums = growth(source, f"{series}_sum", by)
    found = {key: Histogram(edges, row, sums.get(key, 0.0)) for key, row in zip(strata, counts, strict=True)}
    return {key: histogram for key, histogram in found.items() if histogram.n > 0}


def read_cells(source: Source) -> dict[tuple[str, Setting], Cell]:
    """Every voice at every setting seen in the window with at least one request."""
    cells: dict[tuple[str, Setting], Cell] = {}

    def cell(voice: str, cfg: str, steps: str) -> Cell:
        key = (voice, Setting(cfg, steps))
        return cells.setdefault(key, Cell(*key))

    setting = ("voice", "cfg", "steps")
    for (voice, cfg, steps, status), ended in growth(source, semconv.REQUESTS.prometheus, (*setting, "status")).items():
        if voice and ended > 0:
            cell(voice, cfg, steps).statuses[status] = ended
    first_audio = read_histograms(source, semconv.FIRST_AUDIO.prometheus, (*setting, "text_length_range"))
    for (voice, cfg, steps, length), histogram in first_audio.items():
        cell(voice, cfg, steps).first_audio[length] = histogram
    for (voice, cfg, steps), histogram in read_histograms(source, semconv.RTF.prometheus, setting).items():
        cell(voice, cfg, steps).real_time = histogram
    return cells
