"""What was observed, cut by voice, text length, cfg and steps: the common ground of profiles and recommendations."""

from __future__ import annotations

from collections.abc import Iterable
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

    def first(self, ranges: Iterable[str] | None = None) -> Histogram | None:
        """First audio over the text lengths asked for, all by default."""
        return total(self.first_audio[name] for name in self.first_audio if ranges is None or name in ranges)


def total(histograms: Iterable[Histogram | None]) -> Histogram | None:
    """The sum; None when there is none to add."""
    present = [histogram for histogram in histograms if histogram is not None]
    return sum(present[1:], present[0]) if present else None


def read_histograms(source: Source, series: str, by: tuple[str, ...]) -> dict[tuple[str, ...], Histogram]:
    """Histograms by the labels ``by``; a label that is absent reads as an empty string."""
    buckets: dict[tuple[str, ...], dict[float, float]] = {}
    for point in source.growth(f"{series}_bucket", (*by, "le")):
        if "le" in point.labels:
            key = tuple(point.labels.get(name, "") for name in by)
            buckets.setdefault(key, {})[float(point.labels["le"])] = point.value
    sums = {tuple(p.labels.get(name, "") for name in by): p.value for p in source.growth(f"{series}_sum", by)}
    edges = np.array(sorted({edge for row in buckets.values() for edge in row}), dtype=np.float64)
    result = {}
    for key, row in buckets.items():
        # A process with other bounds lacks some edges; there the count is at least that of the edge below.
        cumulative = np.maximum.accumulate(np.array([row.get(edge, 0.0) for edge in edges]))
        result[key] = Histogram(edges, np.diff(cumulative, prepend=0.0), sums.get(key, 0.0))
    return result


def read_cells(source: Source) -> dict[tuple[str, Setting], Cell]:
    """Every voice at every setting seen in the window with at least one request."""
    cells: dict[tuple[str, Setting], Cell] = {}

    def cell(voice: str, cfg: str, steps: str) -> Cell:
        key = (voice, Setting(cfg, steps))
        return cells.setdefault(key, Cell(*key))

    for point in source.growth(semconv.REQUESTS.prometheus, ("voice", "cfg", "steps", "status")):
        labels = point.labels
        if point.value > 0 and "voice" in labels:
            found = cell(labels["voice"], labels.get("cfg", ""), labels.get("steps", ""))
            found.statuses[labels.get("status", "")] = found.statuses.get(labels.get("status", ""), 0.0) + point.value
    for key, histogram in read_histograms(
        source, semconv.FIRST_AUDIO.prometheus, ("voice", "cfg", "steps", "text_length_range")
    ).items():
        if histogram.n > 0:
            cell(*key[:3]).first_audio[key[3]] = histogram
    for key, histogram in read_histograms(source, semconv.RTF.prometheus, ("voice", "cfg", "steps")).items():
        if histogram.n > 0:
            cell(*key).real_time = histogram
    return cells


def by_voice(source: Source, series: str) -> dict[str, float]:
    """A counter's growth for each voice."""
    return {p.labels["voice"]: p.value for p in source.growth(series, ("voice",)) if "voice" in p.labels}
