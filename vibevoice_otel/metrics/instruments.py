"""The OTel instruments of semconv.METRICS, with the label bounds enforced before the SDK."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import time_ns
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from vibevoice_otel import forking, semconv
from vibevoice_otel.recording.records import Ids
from vibevoice_otel.semconv import Metric

Attributes = Mapping[str, str]
Observe = Callable[[], Iterable[tuple[float, Attributes]]]
#: What the OpenTelemetry specification calls the attribute set that stands for all beyond the limit.
OVERFLOW: Mapping[str, Any] = {"otel.metric.overflow": True}
SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def exemplar_context(trace_id: int, span_id: int) -> Context:
    """A context whose current span is the (already ended) span that an exemplar shall name."""
    return trace.set_span_in_context(NonRecordingSpan(SpanContext(trace_id, span_id, False, SAMPLED)))


class Limits:
    """Counts attribute sets and series; past either limit a measurement goes to the overflow set,
    so sums stay exact.
    """

    def __init__(self, max_attribute_sets: int, max_series: int) -> None:
        self._max_sets = max_attribute_sets
        self._max_series = max_series
        forking.begin(self._begin_anew)

    def _begin_anew(self) -> None:
        """Nothing seen: in a forked child our instruments begin at zero."""
        self._seen: dict[str, set[tuple[tuple[str, str], ...]]] = {}
        self._series = 0
        self._as_written: set[tuple[str, tuple[tuple[str, str], ...]]] = (
            set()
        )  # admitted sets in their callers' own order

    @property
    def series(self) -> tuple[int, int]:
        """Series made so far, and how many may be."""
        return self._series, self._max_series

    def admit(self, metric: Metric, attributes: Attributes) -> Mapping[str, Any]:
        written = (metric.name, tuple(attributes.items()))
        if written in self._as_written:
            return attributes
        key = tuple(sorted(attributes.items()))
        cost = len(metric.buckets) + 3 if metric.instrument == "histogram" else 1
        seen = self._seen.get(metric.name)
        if seen is None:
            seen = self._seen[metric.name] = set()
            self._series += cost  # the overflow set's own, should it come to be
        if key in seen:
            self._as_written.add(written)
            return attributes
        # One place in each instrument is the overflow set's own.
        if len(seen) >= self._max_sets - 1 or self._series + cost > self._max_series:
            return OVERFLOW
        seen.add(key)
        self._series += cost
        return attributes


@dataclass(frozen=True, slots=True)
class Exemplars:
    """The spans that exemplars may name, for n values.

    Args:
        span_ids: of each value's exported, sampled span, 0 where there is none; shape (n,).
        trace_ids: of each request.
        requests: of each value, the place of its request in ``trace_ids``; shape (n,).
        times: when each request's values were recorded, nanoseconds since 1970.
    """

    span_ids: Ids | Sequence[int]
    trace_ids: Sequence[int]
    requests: NDArray[np.intp] | Sequence[int]
    times: Sequence[int]

    def context(self, row: int) -> Context:
        """What :meth:`record` takes for the value in this row."""
        span_id = int(self.span_ids[row])
        return exemplar_context(self.trace_ids[self.requests[row]], span_id) if span_id else NO_TRACE

    def time(self, row: int) -> int:
        """When the value in this row was recorded. That of a later row is never earlier: Prometheus refuses exemplars
        that go back.
        """
        return self.times[self.requests[row]]

    def take(self, rows: NDArray[np.intp] | slice) -> Exemplars:
        """Those of ``rows``."""
        span_ids = np.asarray(
            self.span_ids, np.uint64
        )  # left to itself numpy makes floats of small and large ids together
        return Exemplars(span_ids[rows], self.trace_ids, np.asarray(self.requests)[rows], self.times)


class BulkWriter(Protocol):
    """A cheaper way to record (sdk/histograms.py), where the SDK's aggregations allow it. False:
    nothing was recorded.
    """

    def record_many(
        self,
        instrument: Any,
        values: Sequence[float] | NDArray[np.float64],
        attributes: Mapping[str, Any],
        exemplars: Exemplars | None = None,
    ) -> bool: ...

    def add(self, instrument: Any, amount: float, attributes: Mapping[str, Any]) -> bool: ...


class _Cell:
    """The one callback of an observable instrument: the SDK takes none back, so it asks what observes now, if
    anything does.
    """

    collect: Callable[[], Iterable[Observation]] | None = None

    def __call__(self, _options: CallbackOptions) -> Iterable[Observation]:
        return self.collect() if self.collect is not None else ()


_CELLS: weakref.WeakKeyDictionary[Meter, dict[str, _Cell]] = weakref.WeakKeyDictionary()


def _cells(meter: Meter) -> dict[str, _Cell]:
    """The callbacks of a meter's observables, by name. One that was made before the global provider was set stands for
    the real one.
    """
    for known, cells in list(_CELLS.items()):
        if known is meter or getattr(known, "_real_meter", None) is meter:
            return cells
    return _CELLS.setdefault(meter, {})


class Instruments:
    """Creates each instrument once and records into it.

    Args:
        provider: None for the global one.
        version: of the meter.
        limits: the bounds on attribute sets and series.
        fast: a cheaper way to record, None for none.
    """

    def __init__(
        self, provider: MeterProvider | None, version: str, limits: Limits, fast: BulkWriter | None = None
    ) -> None:
        self.meter: Meter = get_meter(semconv.SCOPE, version, provider, semconv.SCHEMA_URL)
        self._fast = fast
        self.limits = limits
        #: Called before each collection, in time for what they write to be collected (metrics/ledger.py).
        self.before: list[Callable[[], None]] = []
        self._cells: list[tuple[_Cell, Callable[[], Iterable[Observation]]]] = []
        self._synchronous: dict[str, Any] = {}
        for metric in semconv.METRICS:
            if metric.source.startswith("span ") or metric is semconv.DROPPED:
                self._synchronous[metric.name] = (
                    self.meter.create_counter(metric.name, metric.unit, metric.brief)
                    if metric.instrument == "counter"
                    else self.meter.create_histogram(
                        metric.name, metric.unit, metric.brief, explicit_bucket_boundaries_advisory=list(metric.buckets)
                    )
                )

    def add(self, metric: Metric, amount: float, attributes: Attributes) -> None:
        """Add to a counter; an amount of 0 makes the series exist, so that increase() sees its first event."""
        bounded, instrument = self.limits.admit(metric, attributes), self._synchronous[metric.name]
        if self._fast is None or not self._fast.add(instrument, amount, bounded):
            instrument.add(amount, bounded, context=NO_TRACE)

    def record(
        self, metric: Metric, value: float, attributes: Attributes, exemplar: tuple[int, int] | None = None
    ) -> None:
        """Record into a histogram; ``exemplar`` is (trace id, span id) of an exported, sampled span, or None."""
        exemplars = Exemplars((exemplar[1],), (exemplar[0],), (0,), (time_ns(),)) if exemplar is not None else None
        self.record_many(metric, (value,), attributes, exemplars)

    def record_many(
        self,
        metric: Metric,
        values: Sequence[float] | NDArray[np.float64],
        attributes: Attributes,
        exemplars: Exemplars | None = None,
    ) -> None:
        """Record each of ``values``, shape (n,)."""
        bounded, instrument = self.limits.admit(metric, attributes), self._synchronous[metric.name]
        fast = self._fast
        if fast is not None and fast.record_many(instrument, values, bounded, exemplars):
            return
        for row in range(len(values)):
            instrument.record(
                float(values[row]), bounded, context=exemplars.context(row) if exemplars is not None else NO_TRACE
            )
            # The first value of a series is the SDK's to take; it may be all that the fast path was waiting for.
            if row == 0 and len(values) > 1 and fast is not None:
                others = exemplars.take(slice(1, None)) if exemplars is not None else None
                if fast.record_many(instrument, values[1:], bounded, others):
                    return

    @property
    def may_wait(self) -> bool:
        """Whether measurements may be held back until the next collection: it tells us of itself, and it pays."""
        return bool(self._cells) and self._fast is not None

    def observe(self, metric: Metric, read: Observe) -> None:
        """Register a gauge, up-down counter or counter that ``read`` answers at each collection with (value,
        attributes).
        """

        def collect() -> Iterable[Observation]:
            for write in self.before:
                write()
            return [Observation(value, self.limits.admit(metric, attributes)) for value, attributes in read()]

        cells = _cells(self.meter)
        if metric.name not in cells:
            cells[metric.name] = cell = _Cell()
            create = {
                "gauge": self.meter.create_observable_gauge,
                "updowncounter": self.meter.create_observable_up_down_counter,
                "counter": self.meter.create_observable_counter,
            }[metric.instrument]
            create(metric.name, [cell], metric.unit, metric.brief)
        cells[metric.name].collect = collect
        self._cells.append((cells[metric.name], collect))

    def close(self) -> None:
        """Record what waits for the next collection, and observe no more."""
        for write in self.before:
            write()
        for cell, collect in self._cells:
            if cell.collect is collect:
                cell.collect = None
        self._cells.clear()


#: A context with no span in it, but not an empty one: the SDK takes an empty one for none and falls back on the
#: recording thread's own, where the threading instrumentation has left the span of the request that started the thread.
NO_TRACE = trace.set_span_in_context(trace.INVALID_SPAN, Context())
