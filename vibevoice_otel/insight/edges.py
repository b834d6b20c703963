"""How much counters grew in each of many blocks of time, read at the blocks' edges alone.

A month of samples is far more than a question needs: where a process lived through a block without a restart, its
counters' growth is the difference of two samples. So each series is read once at every edge, and only the blocks in
which some process began anew, ended, or came and went are read whole, and of them that process alone.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.arrays import Blocks, Floats
from vibevoice_otel.insight.source import Point, Track

#: Seconds before an edge in which a series' sample still counts as its value there: Prometheus' own lookback.
LOOKBACK = 300
#: (job, instance): what one process reports under.
Process = tuple[str, str]
#: Asks what an expression was at given times, which are so many seconds apart.
Range = Callable[[str, Floats, float], list[Track]]
#: Growth of a series by labels, over so many seconds until a time, of the instances that a regular expression names.
Exact = Callable[[str, Sequence[str], int, float, str], list[Point]]


class Edges:
    """Growth in ``blocks`` equal blocks that end at ``end``.

    Args:
        query: asks for a range.
        exact: asks for the growth in one block by every sample of it.
        select: the selector of a series, with the labels that were asked for, or, where ``whole`` is set, with only
            those that every series of a process has; and with a matcher more.
        of: expressions that hold the processes which count, which are in all of them, given a block's seconds.
        blocks: how many.
        step: seconds of a block.
        end: Unix time.
    """

    def __init__(
        self,
        query: Range,
        exact: Exact,
        select: Callable[..., str],
        of: Callable[[int], Sequence[str]],
        *,
        blocks: int,
        step: int,
        end: float,
    ) -> None:
        self._query, self._exact, self._select = query, exact, select
        self._infos = of(step)
        self._blocks, self._step = blocks, step
        self.times = end - step * np.arange(blocks, -1, -1, dtype=np.float64)
        self._read: dict[str, list[Track]] = {}

    def growth(self, series: str, by: Sequence[str]) -> dict[tuple[str, ...], Floats]:
        """Growth by the labels ``by``, shape (blocks,) each."""
        grown = [(row, *self._differences(row.values)) for row in self._series(series)]
        restless = self._no_blocks(self._restless)
        for row, _, broken in grown:
            restless[row.process] = restless[row.process] | broken
        kept = {
            process: np.all([~broken, *(counted[process] for counted in self._counting)], axis=0)
            for process, broken in restless.items()
        }
        found: dict[tuple[str, ...], Floats] = {}
        for row, moved, _ in grown:
            key = tuple(row.labels.get(name, "") for name in by)
            found[key] = found.get(key, 0.0) + np.where(kept[row.process], moved, 0.0)
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

    def _series(self, series: str) -> list[Track]:
        """The values at the edges, NaN where a series is absent."""
        if series not in self._read:
            expression = f"last_over_time({self._select(series)}[{LOOKBACK}s])"
            self._read[series] = self._query(expression, self.times, self._step)
        return self._read[series]

    def _no_blocks(self, but: Mapping[Process, Blocks] | None = None) -> defaultdict[Process, Blocks]:
        """Process -> blocks: none, but those given."""
        return defaultdict(lambda: np.zeros(self._blocks, bool), but or {})

    def _in_blocks(self, expression: str) -> defaultdict[Process, Blocks]:
        """Process -> the blocks for which the expression has a value."""
        found = self._no_blocks()
        for row in self._query(expression, self.times[1:], self._step):
            found[row.process] = found[row.process] | ~np.isnan(row.values)
        return found

    @cached_property
    def _restless(self) -> dict[Process, Blocks]:
        """The blocks in which a process began anew, or that hold its whole life."""
        step, info = self._step, self._select(semconv.BUILD_INFO.prometheus, whole=True)
        counted = self._select(semconv.REQUESTS.prometheus, 'status="success"', whole=True)
        of = "by (job, instance)"
        found = self._in_blocks(f"max {of} (resets({counted}[{step}s])) > 0")
        seen = self._in_blocks(f"count {of} (last_over_time({info}[{step}s]) or last_over_time({counted}[{step}s]))")
        there = self._query(
            f"count {of} (last_over_time({info}[{LOOKBACK}s]) or last_over_time({counted}[{LOOKBACK}s]))",
            self.times,
            self._step,
        )
        at = {row.process: ~np.isnan(row.values) for row in there}
        for process, blocks in seen.items():
            edges = at.get(process, np.zeros(self._blocks + 1, bool))
            found[process] = found[process] | (blocks & ~edges[:-1] & ~edges[1:])
        return found

    @cached_property
    def _counting(self) -> list[defaultdict[Process, Blocks]]:
        """For each label that was asked for, the blocks in which a process carried it."""
        return [self._in_blocks(f"count by (job, instance) ({infos})") for infos in self._infos]


def labelled(label: str, value: str) -> str:
    """A matcher."""
    return f"{label}={json.dumps(value, ensure_ascii=False)}"
