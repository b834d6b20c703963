"""What a collection gives after our increments, against the public API's after the same data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    Counter,
    ExemplarFilter,
    Histogram,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)

from tests.support.metrics import every_metric
from vibevoice_otel import semconv
from vibevoice_otel.metrics.instruments import Exemplars, Instruments, Limits
from vibevoice_otel.sdk import histograms
from vibevoice_otel.sdk.capability import Capability
from vibevoice_otel.sdk.histograms import MANY, FastMetrics

DELTA = {Histogram: AggregationTemporality.DELTA, Counter: AggregationTemporality.DELTA}
SECONDS = st.one_of(st.floats(0, 2), st.sampled_from([*semconv.STEP_BUCKETS, 0.0, 5e-324, 1e300]))
#: A block: values, and the id of each one's span (0: not exported), or no ids at all (not traced).
BLOCK = st.lists(st.tuples(SECONDS, st.integers(0, 3)), max_size=30)


class Pair:
    """The same instruments twice: one written to by the fast path, one by the public API."""

    def __init__(self, make: Callable[[], MeterProvider]) -> None:
        self.providers = [make(), make()]
        self.fast = FastMetrics()
        self.instruments = [
            Instruments(provider, "1", Limits(2000, 50_000), fast)
            for provider, fast in zip(self.providers, (self.fast, None), strict=True)
        ]
        self.bulk = 0  # blocks that really took the fast path
        inner = self.fast._add

        def counted(*args: Any) -> bool:
            took = inner(*args)
            self.bulk += took
            return took

        self.fast._add = counted  # type: ignore[method-assign]

    def record(self, values: Sequence[float], span_ids: Sequence[int] = (), **attributes: str) -> None:
        for each in self.instruments:
            rows = range(len(values))
            exemplars = (
                Exemplars(np.array(span_ids, np.uint64), (0xABC,), [0 for _ in rows], list(rows))
                if len(span_ids)
                else None
            )
            each.record_many(semconv.INFERENCE, np.array(values, np.float64), {"voice": "v", **attributes}, exemplars)

    def add(self, amount: float, **attributes: str) -> None:
        for each in self.instruments:
            each.add(semconv.AUDIO_PRODUCED, amount, {"voice": "v", **attributes})

    def check(self) -> None:
        """All readers of both sides, in the same order, have the same points."""
        ours, theirs = (
            [_points(reader) for reader in provider._all_metric_readers_in_order] for provider in self.providers
        )  # type: ignore[attr-defined]
        assert ours == theirs


def pair(
    readers: int = 1,
    temporality: dict[type, AggregationTemporality] | None = None,
    views: Sequence[View] = (),
    exemplar_filter: type[ExemplarFilter] = TraceBasedExemplarFilter,
) -> Pair:
    def make() -> MeterProvider:
        each = [InMemoryMetricReader(preferred_temporality=temporality) for _ in range(readers)]
        provider = MeterProvider(each, views=views, exemplar_filter=exemplar_filter(), shutdown_on_exit=False)
        provider._all_metric_readers_in_order = each  # type: ignore[attr-defined]
        return provider

    return Pair(make)


def _points(reader: InMemoryMetricReader) -> dict[str, list[object]]:
    return {
        metric.name: [*map(_point, metric.data.data_points), getattr(metric.data, "aggregation_temporality", None)]
        for metric in every_metric(reader)
    }


def _point(point: Any) -> object:
    fields = (
        "attributes",
        "count",
        "sum",
        "min",
        "max",
        "bucket_counts",
        "explicit_bounds",
        "value",
        "scale",
        "zero_count",
        "positive",
    )
    exemplars = [(e.value, e.trace_id, e.span_id, e.filtered_attributes) for e in point.exemplars]
    return [(name, getattr(point, name, None)) for name in fields], exemplars


@settings(max_examples=60, deadline=None)
@given(st.lists(BLOCK, max_size=5), st.booleans())
def test_a_collection_is_the_same_to_the_last_bit(recorded: list[list[tuple[float, int]]], traced: bool) -> None:
    """Counts, sums, least and greatest, and the exemplar of every bucket are the public API's,
    whatever was recorded.
    """
    both = pair()
    both.record([0.001])  # the first of a series always takes the public API
    for rows in recorded:
        both.record([v for v, _ in rows], [i for _, i in rows] if traced else ())
    assert both.bulk == sum(1 for rows in recorded if rows)
    both.check()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_a_long_block_too(seed: int, traced: bool) -> None:
    """From MANY values on the sums are done by numpy; the collection is still the same to the last bit."""
    generator = np.random.default_rng(seed)
    both = pair()
    both.record([0.001])
    both.record(
        generator.gamma(2, 0.004, 3 * MANY).tolist(), generator.integers(0, 3, 3 * MANY).tolist() if traced else ()
    )
    assert both.bulk == 1
    both.check()


@pytest.mark.parametrize("chosen", [TraceBasedExemplarFilter, AlwaysOnExemplarFilter, AlwaysOffExemplarFilter])
def test_the_operators_exemplar_filter_holds(chosen: type[ExemplarFilter]) -> None:
    """OTEL_METRICS_EXEMPLAR_FILTER: traced ones only, all, or none."""
    both = pair(exemplar_filter=chosen)
    for span_ids in ((), (5, 0, 7), (0, 0, 0)):
        both.record([0.001, 0.002, 0.5, 0.0015], span_ids and (*span_ids, 0))
    assert both.bulk == 3, "of the first block all but its first value, which makes the series"
    both.check()


@pytest.mark.parametrize("temporality", [None, DELTA], ids=["cumulative", "delta"])
def test_temporality_is_the_readers_own(temporality: dict[type, AggregationTemporality] | None) -> None:
    """Collections in between, one with nothing new among them: each is what the public API's would be."""
    both = pair(temporality=temporality)
    for values in ([0.001], [0.002, 0.3], [], [0.004], [0.1, 0.2]):
        if values:
            for _ in range(
                2
            ):  # a release that begins each collection anew takes the first of each through the public API
                both.record(values, [9] * len(values))
                both.add(sum(values))
        both.check()
    assert both.bulk


@pytest.mark.parametrize("chosen", [TraceBasedExemplarFilter, AlwaysOnExemplarFilter])
def test_a_counter_adds_up(chosen: type[ExemplarFilter]) -> None:
    """Sums are the public API's; a counter's exemplar is drawn by lot, so only that there is one can be compared."""
    totals = []
    both = pair(exemplar_filter=chosen)
    for amount in (1.5, 2, 0, 0.25):
        both.add(amount)
    for provider in both.providers:
        [reader] = provider._all_metric_readers_in_order  # type: ignore[attr-defined]
        [[(fields, exemplars), _]] = _points(reader).values()  # type: ignore[misc]
        totals.append((fields, len(exemplars)))
    assert both.bulk == 3
    assert totals[0] == totals[1]


def test_several_readers_each_get_everything() -> None:
    """A push exporter and a scrape endpoint side by side."""
    both = pair(readers=2)
    for _ in range(3):
        both.record([0.001, 0.5], [1, 2])
    assert both.bulk == 3
    both.check()


VIEWS = {
    "renamed": View(instrument_name=semconv.INFERENCE.name, name="renamed"),
    "other buckets": View(
        instrument_name=semconv.INFERENCE.name, aggregation=ExplicitBucketHistogramAggregation([0.01, 0.1])
    ),
    "fewer attributes": View(instrument_name=semconv.INFERENCE.name, attribute_keys={"voice"}),
    "dropped": View(instrument_name=semconv.INFERENCE.name, aggregation=DropAggregation()),
    "no minimum": View(
        instrument_name=semconv.INFERENCE.name,
        aggregation=ExplicitBucketHistogramAggregation([0.01], record_min_max=False),
    ),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_views_hold(view: View) -> None:
    """The operator's Views shape what we add as they shape what is recorded."""
    both = pair(views=[view])
    for index in ("0", "1", "0", "1"):
        both.record([0.001, 0.05, 0.5], [1, 0, 3], step_index=index)
    assert both.bulk
    both.check()


def test_two_views_of_one_instrument() -> None:
    """Both streams of a doubled instrument receive the block once."""
    both = pair(views=[VIEWS["renamed"], VIEWS["fewer attributes"]])
    for _ in range(3):
        both.record([0.001, 0.05], [1, 2], step_index="0")
    assert both.bulk == 3
    both.check()


def test_an_exponential_histogram_is_left_to_the_public_api() -> None:
    """What is not known is declined, and the reason stands in the explanation."""
    both = pair(
        views=[View(instrument_name=semconv.INFERENCE.name, aggregation=ExponentialBucketHistogramAggregation())]
    )
    for _ in range(3):
        both.record([0.001, 0.05, 0.5], [1, 2, 3])
    assert both.bulk == 0
    both.check()
    assert both.fast.explain() == (
        "metrics: recorded a block at a time, except vibevoice.inference.duration (a view gives it "
        "ExponentialBucketHistogramAggregation)"
    )


def test_an_unknown_exemplar_filter_is_left_to_the_public_api() -> None:
    """A filter of the operator's own decides on each measurement."""

    class Own(TraceBasedExemplarFilter): ...

    both = pair(exemplar_filter=Own)
    both.record([0.001])
    both.record([0.002])
    assert both.bulk == 0
    both.check()
    assert "the exemplar filter is not one of the SDK's" in both.fast.explain()


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_what_is_no_measurement_is_dropped_as_the_sdk_drops_it(bad: float) -> None:
    """One bad value costs itself, not its block."""
    both = pair()
    both.record([0.001])
    both.record([0.002, bad, 0.003], [1, 2, 3])
    both.check()
    both.record([0.002, 0.003], [1, 2])
    both.check()
    assert both.bulk == 1


def test_a_reader_that_comes_later_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is made anew when the provider's readers change."""
    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    if not hasattr(provider, "add_metric_reader"):
        pytest.skip("this SDK release has no add_metric_reader")
    instruments = Instruments(provider, "1", Limits(100, 10_000), FastMetrics())
    for _ in range(3):
        instruments.record(semconv.QUEUE_DURATION, 0.5, {"voice": "v"})
    late = InMemoryMetricReader()
    provider.add_metric_reader(late)
    for _ in range(3):
        instruments.record(semconv.QUEUE_DURATION, 0.5, {"voice": "v"})
    [[point, _]] = _points(late).values()
    assert ("count", 3) in point[0]  # type: ignore[index]


@pytest.mark.swallows("unsupported opentelemetry-sdk internals")
def test_a_release_whose_insides_differ_uses_the_public_api(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Proof is taken on the installed release; where it fails there is one warning, and nothing is lost."""

    def renamed(*_: object) -> None:
        raise AttributeError("'_ExplicitBucketHistogramAggregation' object has no attribute '_sum'")

    monkeypatch.setattr(histograms, "_add_list", renamed)
    monkeypatch.setattr(histograms, "AGGREGATIONS", Capability("histograms", histograms.probe, "the public API serves"))
    both = pair()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            both.record([0.001, 0.002], [1, 2])
    assert both.bulk == 0
    both.check()
    [said] = caplog.records
    assert "has no attribute '_sum'); the public API serves" in said.getMessage()
    assert both.fast.explain() == "metrics: recorded one value at a time"


def test_without_the_sdk_nothing_breaks() -> None:
    """An API-only process has instruments that do nothing."""
    from opentelemetry.metrics import NoOpMeterProvider

    instruments = Instruments(NoOpMeterProvider(), "1", Limits(100, 10_000), FastMetrics())
    instruments.record(semconv.QUEUE_DURATION, 0.5, {"voice": "v"})
    instruments.add(semconv.AUDIO_PRODUCED, 0.5, {"voice": "v"})


def test_this_release_is_as_known() -> None:
    """CI runs the oldest supported and the newest SDK: here it shows when the fast path must be mended."""
    assert histograms.AGGREGATIONS.works()
