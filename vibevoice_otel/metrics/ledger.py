"""Measurements of many requests, kept by series until a collection, then written a series at a time.

An SDK histogram takes microseconds a value and a block of values costs hardly more than one, so what from_spans.py
finds waits here until a reader collects (or much has gathered). Nothing waits where no collection would ask, nor where
values are written one by one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import time_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vibevoice_otel import failures, forking, semconv
from vibevoice_otel.metrics.instruments import Attributes, Exemplars, Instruments
from vibevoice_otel.recording.records import Ids, Ints
from vibevoice_otel.semconv import Metric

#: Values that wait at most: those of some 55 requests of 2 s. Much of what a write costs does not depend on how many
#: wait: exemplars, one for each bucket of each series.
MAX_VALUES = 8192
#: What one value, and what one block of values, takes in a series' flat row.
SINGLE, BLOCK = 4, 5
#: A series: the metric's name and the attributes.
Key = tuple[str, tuple[tuple[str, str], ...]]
Floats = NDArray[np.float64]
Split = Callable[[Attributes, int], Attributes]


@dataclass(slots=True)
class _Series:
    """Values that wait. With ``split`` each has a number that belongs to its attributes."""

    metric: Metric
    attributes: Attributes
    split: Split | None
    #: Flat, for a tuple of each would wake the garbage collector more often. Of values that come one at a time: value,
    #: span id, trace id, time; of those that come many at a time: values, span ids (empty without a trace), trace id,
    #: time, numbers (None without ``split``).
    entries: list[Any] = field(default_factory=list)


class Ledger:
    """Gathers what is recorded into ``instruments``. Safe for any thread; hold :attr:`lock` around the records of a
    batch.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        forking.begin(self._forget)
        instruments.before.append(self.write)

    def _forget(self) -> None:
        """Empty; after a fork what waits is the parent's to tell."""
        self.lock = threading.RLock()
        self._sums: dict[Key, tuple[Metric, Attributes, float]] = {}
        self._singles: dict[Key, _Series] = {}
        self._blocks: dict[Key, _Series] = {}
        self._waiting = 0

    def add(self, metric: Metric, amount: float, attributes: Attributes) -> None:
        """Add to a counter; an amount of 0 makes the series exist."""
        key = (metric.name, tuple(attributes.items()))
        known = self._sums.get(key)
        self._sums[key] = (metric, attributes, amount if known is None else known[2] + amount)

    def record(self, metric: Metric, value: float, attributes: Attributes, exemplar: tuple[int, int] = (0, 0)) -> None:
        """Record one value; ``exemplar`` is (trace id, span id) of an exported, sampled span, zeros for none."""
        trace_id, span_id = exemplar
        _series(self._singles, metric, attributes).entries.extend((value, span_id, trace_id, time_ns()))
        self._waiting += 1

    def record_many(
        self,
        metric: Metric,
        values: Floats,
        attributes: Attributes,
        trace_id: int,
        span_ids: Ids,
        *,
        numbers: Ints | None = None,
        split: Split | None = None,
    ) -> None:
        """Record values of shape (n,); ``span_ids`` (n,) of trace ``trace_id`` are for exemplars, 0 or empty for none.

        With ``split`` a value's attributes are ``split(attributes, number)``, of ``numbers`` (n,).
        """
        series = _series(self._blocks, metric, attributes, split)
        series.entries.extend((values, span_ids, trace_id, time_ns(), numbers))
        self._waiting += len(values)

    def flush_if_full(self) -> None:
        """A batch has been recorded: write where nothing may wait, or where enough has gathered."""
        if not self._instruments.may_wait or self._waiting > MAX_VALUES:
            self.write()

    def write(self) -> None:
        """Write all that waits into the instruments. A series that cannot be written costs the others nothing, and is
        counted.
        """
        with self.lock:
            sums, singles, blocks = self._sums, self._singles, self._blocks
            self._sums, self._singles, self._blocks, self._waiting = {}, {}, {}, 0
            for metric, attributes, amount in sums.values():
                self._attempt(metric, 1, self._instruments.add, metric, amount, attributes)
            for each in singles.values():
                self._attempt(each.metric, len(each.entries) // SINGLE, self._write_singles, each)
            for each in blocks.values():
                self._attempt(each.metric, sum(map(len, each.entries[::BLOCK])), self._write_blocks, each)

    def _attempt(self, metric: Metric, count: int, write: Callable[..., None], *series: Any) -> None:
        """Write one series of ``metric``. Where that fails at most its ``count`` values are lost: many requests' others
        wait behind it.
        """
        try:
            write(*series)
        except Exception as error:  # noqa: BLE001
            failures.failed(self._dropped, f"writing {metric.name}", error, "metrics", "write_error", count)

    def _dropped(self, what: str, reason: str, count: int) -> None:
        self._instruments.add(semconv.DROPPED, count, {"what": what, "reason": reason})

    def _write_singles(self, series: _Series) -> None:
        values, span_ids, trace_ids, times = (series.entries[column::SINGLE] for column in range(SINGLE))
        exemplars = Exemplars(span_ids, trace_ids, range(len(values)), times) if any(span_ids) else None
        self._instruments.record_many(series.metric, values, series.attributes, exemplars)

    def _write_blocks(self, series: _Series) -> None:
        blocks, span_ids, trace_ids, times, numbered = (series.entries[column::BLOCK] for column in range(BLOCK))
        values = np.concatenate(blocks)
        exemplars = None
        if any(map(len, span_ids)):
            lengths = [len(each) for each in blocks]
            whole = [ids if len(ids) else np.zeros(n, np.uint64) for ids, n in zip(span_ids, lengths, strict=True)]
            request = np.repeat(np.arange(len(lengths)), lengths)
            exemplars = Exemplars(np.concatenate(whole), trace_ids, request, times)
        if series.split is None:
            self._instruments.record_many(series.metric, values, series.attributes, exemplars)
            return
        numbers = np.concatenate(numbered)
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            chosen = exemplars.take(rows) if exemplars is not None else None
            self._instruments.record_many(series.metric, values[rows], series.split(series.attributes, number), chosen)


def _series(kept: dict[Key, _Series], metric: Metric, attributes: Attributes, split: Split | None = None) -> _Series:
    key = (metric.name, tuple(attributes.items()))
    series = kept.get(key)
    if series is None:
        series = kept[key] = _Series(metric, attributes, split)
    return series
