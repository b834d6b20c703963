"""How much counters grew in each of many blocks of time, read at the blocks' edges alone.

A month of samples is far more than a question needs: where a process lived through a block without a restart, its
counters' growth is the difference of two samples. So each series is read once at every edge, and only the blocks in
which some process began anew, ended, or came and went are read whole, and of them that process alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.arrays import Blocks, Floats
from vibevoice_otel.insight.source import Point

#: Seconds before an edge in which a series' sample still counts as its value there: Prometheus' own lookback.
LOOKBACK = 300
#: (job, instance): what one process reports under.
Process = tuple[str, str]
#: Rows of a range query: (expression, times of the first and the last point, seconds between two).
Range = Callable[[str, float, float, float], list[dict[str, Any]]]
#: Growth of a series by labels, over so many seconds until a time, of the instances that a regular expression names.
Exact = Callable[[str, Sequence[str], int, float, str], list[Point]]


@dataclass(frozen=True, slots=True)
class _Series:
    labels: Mapping[str, str]
    process: Process
    values: Floats  # at each edge, NaN where it is absent; shape (blocks + 1,)


class Edges:
    """Growth in ``blocks`` equal blocks that end at ``end``.

    Args:
        query: asks for a range.
        exact: asks for the growth in one block by every sample of it.
        select: the selector of a series, with the labels that were asked for.
        whole: the same with only those labels that every series of a process has.
        of: expressions that hold the processes which count, which are in all of them, given a block's seconds.
        blocks: how many.
        step: seconds of a block.
        end: Unix time.
    """

    def __init__(
        self,
        query: Range,
        exact: Exact,
        select: Callable[[str], str],
        whole: Callable[[str, str], str],
        of: Callable[[int], Sequence[str]],
        *,
        blocks: int,
        step: int,
        end: float,
    ) -> None:
        self._query, self._exact, self._select, self._whole = query, exact, select, whole
        self._infos = of(step)
        self._blocks, self._step = blocks, step
        self.times = end - step * np.arange(blocks, -1, -1, dtype=np.float64)
        self._read: dict[str, list[_Series]] = {}

    def growth(self, series: str, by: Sequence[str]) -> dict[tuple[str, ...], Floats]:
        """Growth by the labels ``by``, shape (blocks,) each."""
        rows = self._series(series)
        restless = {process: blocks.copy() for process, blocks in self._restless.items()}
        grown = []
        for row in rows:
            moved, broken = self._differences(row.values)
            grown.append(moved)
            if broken.any():
                restless[row.process] = restless.get(row.process, np.zeros(self._blocks, bool)) | broken
        found: dict[tuple[str, ...], Floats] = {}
        for row, moved in zip(rows, grown, strict=True):
            key = tuple(row.labels.get(name, "") for name in by)
            kept = self._counts(row.process)
            if row.process in restless:
                kept = kept & ~restless[row.process]
            found[key] = found.get(key, 0.0) + np.where(kept, moved, 0.0)
        self._add_exact(series, by, restless, found)
        return found

    def _add_exact(
        self, series: str, by: Sequence[str], restless: Mapping[Process, Blocks], found: dict[tuple[str, ...], Floats]
    ) -> None:
        for block in range(self._blocks):
            instances = sorted({instance for (_, instance), broken in restless.items() if broken[block]})
            if not instances:
                continue
            named = "|".join(re.escape(each) for each in instances)
            for point in self._exact(series, by, self._step, float(self.times[block + 1]), named):
                key = tuple(point.labels.get(name, "") for name in by)
                found.setdefault(key, np.zeros(self._blocks))[block] += point.value

    def _differences(self, values: Floats) -> tuple[Floats, Blocks]:
        """What a series grew by in each block, and the blocks of which the edges alone do not tell.

        Where it is missing at an edge and comes back, for want of a scrape, what it grew by counts when it is back. One
        that was not there at first has grown by all that it shows.
        """
        known = ~np.isnan(values)
        if not known.any():
            return np.zeros(self._blocks), np.zeros(self._blocks, bool)
        latest = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
        moved = np.diff(np.where(latest >= 0, values[latest], 0.0))
        broken = moved < 0
        gone = int(latest[-1])
        if gone < self._blocks:
            broken[gone] = True
        return moved, broken

    def _series(self, series: str) -> list[_Series]:
        if series not in self._read:
            self._read[series] = self._at_edges(f"last_over_time({self._select(series)}[{LOOKBACK}s])", first=0)
        return self._read[series]

    def _at_edges(self, expression: str, first: int) -> list[_Series]:
        """Values at the edges from the ``first`` on, NaN at those before."""
        begin = float(self.times[first])
        found = []
        for row in self._query(expression, begin, float(self.times[-1]), float(self._step)):
            values = np.full(len(self.times), np.nan)
            for moment, value in row["values"]:
                values[first + round((float(moment) - begin) / self._step)] = float(value)
            labels = {key: value for key, value in row["metric"].items() if key != "__name__"}
            found.append(_Series(labels, (labels.get("job", ""), labels.get("instance", "")), values))
        return found

    def _in_blocks(self, expression: str) -> dict[Process, Blocks]:
        """Process -> the blocks for which the expression has a value."""
        found: dict[Process, Blocks] = {}
        for row in self._at_edges(expression, first=1):
            here = ~np.isnan(row.values[1:])
            found[row.process] = found.get(row.process, np.zeros(self._blocks, bool)) | here
        return found

    @cached_property
    def _restless(self) -> dict[Process, Blocks]:
        """The blocks in which a process began anew, or that hold its whole life."""
        step, info = self._step, self._whole(semconv.BUILD_INFO.prometheus, "")
        counted = self._whole(semconv.REQUESTS.prometheus, 'status="success"')
        of = "by (job, instance)"
        found = self._in_blocks(f"max {of} (resets({counted}[{step}s])) > 0")
        seen = self._in_blocks(f"count {of} (last_over_time({info}[{step}s]) or last_over_time({counted}[{step}s]))")
        there = self._at_edges(
            f"count {of} (last_over_time({info}[{LOOKBACK}s]) or last_over_time({counted}[{LOOKBACK}s]))", first=0
        )
        at = {row.process: ~np.isnan(row.values) for row in there}
        for process, blocks in seen.items():
            edges = at.get(process, np.zeros(self._blocks + 1, bool))
            within = blocks & ~edges[:-1] & ~edges[1:]
            if within.any():
                found[process] = found.get(process, np.zeros(self._blocks, bool)) | within
        return found

    @cached_property
    def _counting(self) -> dict[Process, Blocks]:
        """The blocks in which a process is one of those asked for."""
        each = [self._in_blocks(f"count by (job, instance) ({infos})") for infos in self._infos]
        common = set.intersection(*(set(one) for one in each))
        return {one: np.logical_and.reduce([found[one] for found in each]) for one in common}

    def _counts(self, process: Process) -> Blocks:
        if not self._infos:
            return np.ones(self._blocks, bool)
        return self._counting.get(process, np.zeros(self._blocks, bool))


def labelled(label: str, value: str) -> str:
    """A matcher."""
    return f"{label}={json.dumps(value, ensure_ascii=False)}"
