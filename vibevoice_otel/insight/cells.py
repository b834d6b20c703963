"""What was observed, cut by voice, text length, cfg and steps: the common ground of profiles and recommendations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.source import Source
from vibevoice_otel.insight.stats import Histogram

FAILED = (semconv.Status.ERROR.value, semconv.Status.TIMEOUT.value)
ENDED = (semconv.Status.SUCCESS.value, *FAILED)


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


def growth(source: Source, series: str, by: Sequence[str]) -> dict[tuple[str, ...], float]:
    """A counter's growth by the labels ``by``; a label that is absent reads as an empty string."""
    return {tuple(p.labels.get(name, "") for name in by): p.value for p in source.growth(series, by)}


def by_voice(source: Source, series: str) -> dict[str, float]:
    """A counter's growth for each voice."""
    return {voice: grown for (voice,), grown in growth(source, series, ("voice",)).items() if voice}


def read_histograms(source: Source, series: str, by: tuple[str, ...]) -> dict[tuple[str, ...], Histogram]:
    """Histograms by the labels ``by``, where they hold anything."""
    buckets: dict[tuple[str, ...], dict[float, float]] = {}
    for (*labels, edge), grown in growth(source, f"{series}_bucket", (*by, "le")).items():
        if edge:
            buckets.setdefault(tuple(labels), {})[float(edge)] = grown
    sums = growth(source, f"{series}_sum", by)
    edges = np.array(sorted({edge for row in buckets.values() for edge in row}), dtype=np.float64)
    result = {}
    for key, row in buckets.items():
        # A process with other bounds lacks some edges; there the count is at least that of the edge below.
        cumulative = np.maximum.accumulate(np.array([row.get(edge, 0.0) for edge in edges]))
        result[key] = Histogram(edges, np.diff(cumulative, prepend=0.0), sums.get(key, 0.0))
    return {key: histogram for key, histogram in result.items() if histogram.n > 0}


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
