"""What waits to be written is written in time, once, and the same as if it had not waited."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.trace import TracerProvider

from tests.support.metrics import every_metric
from vibevoice_otel import semconv
from vibevoice_otel.metrics import ledger as module
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.metrics.ledger import Ledger
from vibevoice_otel.sdk import fast
from vibevoice_otel.sdk.histograms import FastMetrics


class Books:
    """A ledger over a real provider; ``waits`` as in a service, else every batch is written at once."""

    def __init__(self, *, waits: bool, views: tuple[View, ...] = (), fast: FastMetrics | None = None) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False, views=views)
        self.instruments = Instruments(self.provider, "1", Limits(2000, 50_000), FastMetrics() if waits else fast)
        if waits:
            self.instruments.observe(semconv.ACTIVE, list)
        self.ledger = Ledger(self.instruments)

    def points(self) -> dict[str, list[tuple[object, ...]]]:
        found: dict[str, list[tuple[object, ...]]] = {}
        for metric in every_metric(self.reader):
            for p in metric.data.data_points:
                exemplars = sorted((e.value, e.trace_id, e.span_id) for e in p.exemplars)
                values = tuple(getattr(p, name, None) for name in ("count", "bucket_counts", "value"))
                total = round(getattr(p, "sum", 0.0), 9)
                found.setdefault(metric.name, []).append(
                    (tuple(sorted(p.attributes.items())), values, total, exemplars)
                )
        return {name: sorted(points, key=str) for name, points in found.items()}


def by_index(attributes: Any, number: int) -> dict[str, str]:
    return {**attributes, "step_index": str(number)}


#: Of one request: seconds of its steps, whether it is traced, seconds of its first audio.
REQUEST = st.tuples(st.lists(st.floats(1e-4, 2), max_size=12), st.booleans(), st.floats(0, 3))


@settings(max_examples=40, deadline=None)
@given(st.lists(REQUEST, max_size=8))
def test_waiting_changes_nothing(requests: list[tuple[list[float], bool, float]]) -> None:
    """Counts, buckets, sums and exemplars, written request by request or all at the collection, are the same."""
    both = Books(waits=True), Books(waits=False)
    for number, (steps, traced, first) in enumerate(requests, 1):
        ids = (
            np.arange(1, len(steps) + 1, dtype=np.uint64) + np.uint64(2**63 * (number % 2))
            if traced
            else np.empty(0, np.uint64)
        )
        for each in both:
            put = each.ledger
            put.add(semconv.UNDERRUN, 1, {"voice": "v"})
            put.record(semconv.FIRST_AUDIO, first, {"voice": "v"}, (number, 9) if traced else (0, 0))
            if steps:
                put.record_many(
                    semconv.INFERENCE, np.array(steps), {"voice": "v"}, number, ids,
                    numbers=np.arange(len(steps)) % 5, split=by_index,
                )  # fmt: skip
            put.flush_if_full()
    assert both[0].points() == both[1].points()
    assert both[0].points() == both[1].points(), "nothing is told twice"


def test_it_waits_for_the_collection_but_not_without_end() -> None:
    """Nothing is written before somebody collects, until MAX_VALUES wait."""
    books = Books(waits=True)
    written: list[int] = []
    inner = books.instruments.record_many
    books.instruments.record_many = lambda m, values, *rest: (written.append(len(values)), inner(m, values, *rest))[1]  # type: ignore[method-assign]
    block = np.full(1000, 0.01)
    for _ in range(module.MAX_VALUES // 1000):
        books.ledger.record_many(semconv.DECODE_DURATION, block, {"voice": "v"}, 0, np.empty(0, np.uint64))
        books.ledger.flush_if_full()
    assert not written
    books.ledger.record_many(semconv.DECODE_DURATION, block, {"voice": "v"}, 0, np.empty(0, np.uint64))
    books.ledger.flush_if_full()
    assert sum(written) == 1000 * (module.MAX_VALUES // 1000 + 1)


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
def test_a_forked_child_does_not_tell_what_its_parent_has_waiting() -> None:
    """It is the parent's to tell; told by both it would count twice."""
    books = Books(waits=True)
    books.ledger.add(semconv.UNDERRUN, 3, {"voice": "v"})
    child = os.fork()
    if child == 0:
        os._exit(len(books.ledger._sums))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert books.points()[semconv.UNDERRUN.name][0][1][2] == 3


class Refuses:
    """An exemplar reservoir of an operator's own, which fails."""

    error: type[Exception] = ValueError

    def __init__(self, **_: Any) -> None: ...

    def offer(self, *_: Any) -> None:
        raise self.error

    def collect(self, *_: Any) -> list[object]:
        return []


@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_an_exemplar_that_is_refused_costs_no_value(error: type[Exception]) -> None:
    """The value is counted, once, and so are those of the series that are written after it."""
    kind = type("Refuses", (Refuses,), {"error": error})
    books = Books(
        waits=True, views=(View(instrument_name=semconv.FIRST_AUDIO.name, exemplar_reservoir_factory=lambda _: kind),)
    )
    for trace in (0, 1):  # the first value of a series goes through the public API
        books.ledger.record(semconv.FIRST_AUDIO, 0.1, {"voice": "v"}, (trace, trace))
        books.ledger.record(semconv.RTF, 0.1, {"voice": "v"})
        points = books.points()
    assert [points[metric.name][0][1][0] for metric in (semconv.FIRST_AUDIO, semconv.RTF)] == [2, 2]  # type: ignore[index]


@pytest.mark.swallows("writing vibevoice.")
def test_a_series_that_cannot_be_written_costs_the_others_nothing() -> None:
    """It is counted as lost; every other counter, value and block that waits is told, and so is the gauge whose
    collection this is.
    """
    books = Books(waits=True)
    broken = {semconv.UNDERRUN.name, semconv.FIRST_AUDIO.name, semconv.DECODE_DURATION.name}
    for name in ("add", "record_many"):
        inner = getattr(books.instruments, name)

        def write(metric: Any, *rest: Any, inner: Any = inner) -> None:
            if metric.name in broken:
                raise ValueError
            inner(metric, *rest)

        setattr(books.instruments, name, write)
    none, block, put = np.empty(0, np.uint64), np.full(3, 0.01), books.ledger
    for counter, single, many in (
        (semconv.UNDERRUN, semconv.FIRST_AUDIO, semconv.DECODE_DURATION),
        (semconv.AUDIO_PRODUCED, semconv.RTF, semconv.PREFILL_DURATION),
    ):
        put.add(counter, 1, {"voice": "v"})
        put.record(single, 0.1, {"voice": "v"})
        put.record_many(many, block, {"voice": "v"}, 0, none)
    points = books.points()
    assert set(points) == {
        metric.name for metric in (semconv.AUDIO_PRODUCED, semconv.RTF, semconv.PREFILL_DURATION, semconv.DROPPED)
    }
    assert [(labels, values[2]) for labels, values, *_ in points[semconv.DROPPED.name]] == [  # type: ignore[index]
        ((("reason", "write_error"), ("what", "metrics")), 5)
    ]


def test_a_write_takes_no_lock_that_another_holds_who_waits_for_the_collection() -> None:
    """The SDK holds its list of readers while one is added, which waits for the collection that may be writing."""
    path = fast.path(TracerProvider(shutdown_on_exit=False).get_tracer(""), lambda *_: None)
    assert path is not None
    books = Books(waits=False, fast=path.metrics)
    books.ledger.add(semconv.UNDERRUN, 1, {"voice": "v"})
    writer = threading.Thread(target=books.ledger.write, daemon=True)
    with MeterProvider._all_metric_readers_lock:
        writer.start()
        writer.join(60)
        assert not writer.is_alive()
