"""What the figures are read from: growth by labels in blocks of time, and one side of a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vibevoice_otel.insight.arrays import Floats
from vibevoice_otel.insight.compare.effect import Side
from vibevoice_otel.insight.source import Source

Key = tuple[str, ...]


def table(source: Source, series: str, by: Key, blocks: int) -> dict[Key, Floats]:
    """Growth by labels, shape (blocks,) each; an absent stretch is nothing."""
    found: dict[Key, Floats] = {}
    for track in source.growths(series, by, blocks):
        key = tuple(track.labels.get(name, "") for name in by)
        found[key] = found.get(key, 0.0) + np.nan_to_num(track.values)
    return found


def side(
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
