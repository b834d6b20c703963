"""Histogram and counter increments a block at a time, straight into the SDK's aggregations.

All that is taken from the metrics SDK's insides stands in this file. What comes out of a collection is the same as
after the public API's ``record`` and ``add`` of every value, which :func:`probe` proves on the installed release before
anything is written this way. Views, temporality, exemplar filter and reservoirs stay the SDK's own; whatever is not as
known here is left to the public API.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import time_ns
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics._internal import aggregation as sdk
from opentelemetry.sdk.metrics._internal import instrument as sdk_instruments
from opentelemetry.sdk.metrics._internal.exemplar.exemplar_reservoir import AlignedHistogramBucketExemplarReservoir
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from vibevoice_otel.metrics.instruments import NO_TRACE, Exemplars, exemplar_context
from vibevoice_otel.sdk.capability import Capability, Unknown

logger = logging.getLogger(__name__)
Attributes = Mapping[str, Any]
Items = tuple[tuple[str, Any], ...]
Values = Sequence[float] | NDArray[np.float64]
SpanIds = Sequence[int] | NDArray[np.uint64]
NO_ROWS = np.empty(0, np.intp)
#: From this many values on numpy is cheaper than a loop.
MANY = 192
WHEN: dict[type, Literal["traced", "always", "never"]] = {
    TraceBasedExemplarFilter: "traced",
    AlwaysOnExemplarFilter: "always",
    AlwaysOffExemplarFilter: "never",
}


@dataclass(slots=True)
class _Plan:
    """Where an instrument's measurements go."""

    storages: object  # the consumer's mapping, replaced whenever a reader comes or goes
    matches: list[Any]  # of all readers, without those that drop the instrument
    when: Literal["traced", "always", "never"]
    keys: dict[Items, tuple[Any, ...]] = field(default_factory=dict)  # attribute set -> its key in each match


class FastMetrics:
    """Adds many measurements at once, or says that the public API must.

    Args:
        proven: skip the proof; for the proof itself.
    """

    def __init__(self, *, proven: bool = False) -> None:
        self._plans: dict[Any, _Plan | None] = {}
        self._proven = proven
        self._refusals: dict[str, str] = {}

    def ready(self) -> bool:
        """Whether the installed release is supported. Call it without any lock held: the first answer takes the SDK's
        own.
        """
        return self._proven or AGGREGATIONS.works()

    def record_many(
        self, instrument: Any, values: Values, attributes: Attributes, exemplars: Exemplars | None = None
    ) -> bool:
        """Record ``values`` into a histogram; False when nothing was recorded and the public API must."""
        if not len(values):
            return True
        if len(values) >= MANY:
            values = np.asarray(values)
        elif isinstance(values, np.ndarray):
            values = values.tolist()
        total = float(values.sum()) if isinstance(values, np.ndarray) else sum(values)
        least = values.min() if isinstance(values, np.ndarray) else min(values)
        if not math.isfinite(total) or least < 0:
            return False  # the public API drops what is not a measurement, and says so
        return self._add(instrument, values, attributes, exemplars, "_ExplicitBucketHistogramAggregation")

    def add(self, instrument: Any, amount: float, attributes: Attributes) -> bool:
        """Add to a counter; False when nothing was added and the public API must."""
        if not math.isfinite(amount) or amount < 0:
            return False
        return self._add(instrument, (amount,), attributes, None, "_SumAggregation")

    def _add(
        self, instrument: Any, values: Values, attributes: Attributes, exemplars: Exemplars | None, kind: str
    ) -> bool:
        if not self.ready():
            return False
        instrument = getattr(instrument, "_real_instrument", None) or instrument
        try:
            plan = self._plan(instrument, getattr(sdk, kind))
            if plan is None or not instrument._is_enabled():
                return False
            return _write(plan, values, attributes, exemplars)
        except (Unknown, AttributeError, TypeError, LookupError) as reason:
            name = getattr(instrument, "name", type(instrument).__name__)
            if name not in self._refusals:
                logger.info("%s is recorded through the public API: %s", name, reason)
            self._refusals[name] = str(reason)
            self._plans[instrument] = None
            return False

    def _plan(self, instrument: Any, kind: type) -> _Plan | None:
        known = self._plans.get(instrument)
        if known is None and instrument in self._plans:
            return None
        consumer = instrument._measurement_consumer
        storages = consumer._reader_storages
        if known is not None and known.storages is storages:
            return known
        if type(instrument) not in (sdk_instruments._Histogram, sdk_instruments._Counter):
            raise Unknown(f"{type(instrument).__qualname__} is not the SDK's instrument")
        when = WHEN.get(type(consumer._sdk_config.exemplar_filter))
        if when is None:
            raise Unknown("the exemplar filter is not one of the SDK's")
        matches = []
        for storage in storages.values():
            for match in storage._get_or_init_view_instrument_match(instrument):
                if type(match._aggregation) is sdk._DropAggregation:
                    continue
                if type(match._aggregation) is not kind:
                    raise Unknown(f"a view gives it {type(match._aggregation).__qualname__.strip('_')}")
                matches.append(match)
        made = self._plans[instrument] = _Plan(storages, matches, when)
        return made

    def explain(self) -> str:
        """One sentence for ``vibevoice-otel doctor``."""
        if not self.ready():
            return "metrics: recorded one value at a time"
        if self._refusals:
            some = "; ".join(f"{name} ({reason})" for name, reason in sorted(self._refusals.items()))
            return f"metrics: recorded a block at a time, except {some}"
        return "metrics: recorded a block at a time"


def _write(plan: _Plan, values: Values, attributes: Attributes, exemplars: Exemplars | None) -> bool:
    items = tuple(attributes.items())
    keys = plan.keys.get(items)
    if keys is None:
        keys = _find_keys(plan, attributes)
        if keys is None:
            return False  # the public API makes a new attribute set, and knows the SDK's own cardinality limit
        plan.keys[items] = keys
    if len(plan.matches) == 1:  # one reader and no doubling view: the common case
        with plan.matches[0]._lock:
            return _update(plan, keys, values, attributes, exemplars)
    with ExitStack() as locks:
        for match in plan.matches:
            locks.enter_context(match._lock)
        return _update(plan, keys, values, attributes, exemplars)


def _update(
    plan: _Plan, keys: tuple[Any, ...], values: Values, attributes: Attributes, exemplars: Exemplars | None
) -> bool:
    """Update the aggregation of every match; all their locks are held, so none is replaced meanwhile."""
    aggregations = [match._attributes_aggregation.get(key) for match, key in zip(plan.matches, keys, strict=True)]
    if None in aggregations:  # a collection with delta temporality may have begun anew
        return False
    for aggregation in aggregations:
        if type(aggregation) is sdk._SumAggregation:
            _add_to_sum(aggregation, values[0])
            if plan.when == "always":
                _offer(aggregation._reservoir, values[0], time_ns(), attributes, NO_TRACE)
        else:
            _add_to_histogram(aggregation, values, attributes, exemplars, plan.when)
    return True


def _find_keys(plan: _Plan, attributes: Attributes) -> tuple[Any, ...] | None:
    """The key by which each match knows these attributes, read off the aggregation that the public API made
    for them.
    """
    keys = []
    for match in plan.matches:
        wanted = match._view._attribute_keys
        own = {k: v for k, v in attributes.items() if wanted is None or k in wanted}
        with match._lock:
            found = [
                key for key, aggregation in match._attributes_aggregation.items() if aggregation._attributes == own
            ]
        if len(found) != 1:
            return None
        keys.append(found[0])
    return tuple(keys)


def _add_to_sum(aggregation: Any, amount: float) -> None:
    with aggregation._lock:
        aggregation._value = (aggregation._value or 0) + amount


def _add_to_histogram(
    aggregation: Any, values: Values, attributes: Attributes, exemplars: Exemplars | None, when: str
) -> None:
    span_ids: SpanIds = exemplars.span_ids if exemplars is not None else ()
    with aggregation._lock:
        if aggregation._value is None:
            aggregation._value = aggregation._get_empty_bucket_counts()
        sampled = span_ids if when == "traced" else None
        last = (
            _add_array(aggregation, values, sampled)
            if isinstance(values, np.ndarray)
            else _add_list(aggregation, values, sampled)
        )
    if when == "never" or (when == "traced" and not len(span_ids)):
        return
    reservoir = aggregation._reservoir
    if when == "always" or type(reservoir) is not AlignedHistogramBucketExemplarReservoir:
        # Of traced ones the aligned reservoir keeps the last of each bucket; any other case is offered everything.
        last = [row for row in range(len(values)) if when == "always" or span_ids[row]]
    for row in last:
        at, context = (exemplars.time(row), exemplars.context(row)) if exemplars is not None else (time_ns(), NO_TRACE)
        _offer(reservoir, float(values[row]), at, attributes, context)


def _offer(reservoir: Any, value: float, at: int, attributes: Attributes, context: Context) -> None:
    """Offer an exemplar. A view's own reservoir may do anything; the value it belongs to has been counted, and must not
    be again.
    """
    try:
        reservoir.offer(value, at, attributes, context)
    except Exception:
        logger.debug("an exemplar was refused", exc_info=True)


# Both add one value after another, as the public API does: the sum is the same to the last bit. Both return the rows,
# in order, of the last value in each bucket, counting only those with a span id when span ids are given.


def _add_list(aggregation: Any, values: Sequence[float], span_ids: SpanIds | None) -> list[int]:
    bounds, counts, total = aggregation._boundaries, aggregation._value, aggregation._sum
    last: dict[int, int] = {}
    for row, value in enumerate(values):
        bucket = bisect_left(bounds, value)
        counts[bucket] += 1
        total += value
        if span_ids is None or (len(span_ids) and span_ids[row]):
            last[bucket] = row
    aggregation._sum = total
    if aggregation._record_min_max:
        aggregation._min, aggregation._max = min(aggregation._min, *values), max(aggregation._max, *values)
    return sorted(last.values())


def _add_array(aggregation: Any, values: NDArray[np.float64], span_ids: SpanIds | None) -> list[int]:
    counts = aggregation._value
    buckets = np.searchsorted(aggregation._boundaries, values)
    for bucket, count in enumerate(np.bincount(buckets, minlength=len(counts)).tolist()):
        counts[bucket] += count
    aggregation._sum = float(np.cumsum(np.concatenate(([aggregation._sum], values)))[-1])
    if aggregation._record_min_max:
        aggregation._min, aggregation._max = (
            min(aggregation._min, float(values.min())),
            max(aggregation._max, float(values.max())),
        )
    rows = (
        np.arange(len(values))
        if span_ids is None
        else np.flatnonzero(np.asarray(span_ids))
        if len(span_ids)
        else NO_ROWS
    )
    last = np.full(len(counts), -1, np.intp)
    last[buckets[rows]] = rows  # where a bucket recurs, the later row stays
    return sorted(last[last >= 0].tolist())


# ------------------------------------------------------------------------------------------------------------ the proof


def probe() -> None:
    """Collect the same from increments of ours as from the SDK's own, on a provider made for the purpose.

    Raises:
        Exception: when this release collects something else.
    """
    if _collected(fast=True) != _collected(fast=False):
        raise Unknown("a collection after increments of ours is another one")


AGGREGATIONS = Capability(
    "histograms a block at a time",
    probe,
    "every value is recorded through the public API, which costs about ten times the CPU",
)


def _collected(*, fast: bool) -> list[object]:
    reader = InMemoryMetricReader()
    # shutdown_on_exit: there is nothing to flush, and a provider for each process start must not pile up handlers.
    provider = MeterProvider([reader], shutdown_on_exit=False)
    meter = provider.get_meter("vibevoice_otel.verify")
    histogram = meter.create_histogram("verify.histogram", explicit_bucket_boundaries_advisory=[0.1, 0.2, 0.4])
    counter = meter.create_counter("verify.counter")
    attributes = {"voice": "v", "step_index": "0"}
    values, spans = [0.1, 0.15, 0.3, 0.7, 0.05], [11, 12, 0, 14, 15]
    writer = FastMetrics(proven=True)
    histogram.record(0.2, attributes, context=NO_TRACE)
    counter.add(1, attributes, context=NO_TRACE)
    if fast:
        exemplars = Exemplars(spans, (7,), [0] * len(spans), [0] * len(spans))
        if not (writer.record_many(histogram, values, attributes, exemplars) and writer.add(counter, 2.5, attributes)):
            raise Unknown("; ".join(writer._refusals.values()) or "the attribute set was not found")
    else:
        for value, span in zip(values, spans, strict=True):
            histogram.record(value, attributes, context=exemplar_context(7, span) if span else NO_TRACE)
        counter.add(2.5, attributes, context=NO_TRACE)
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    return [_shape(metric.data) for metric in data.resource_metrics[0].scope_metrics[0].metrics]


def _shape(data: Any) -> object:
    """A metric's points without their times."""
    found = []
    for point in data.data_points:
        values = [
            getattr(point, name, None)
            for name in ("attributes", "count", "sum", "min", "max", "bucket_counts", "value")
        ]
        exemplars = [(e.value, e.trace_id, e.span_id, e.filtered_attributes) for e in point.exemplars]
        found.append((values, exemplars))
    return found
