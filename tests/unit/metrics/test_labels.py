"""The labels of what is measured are those that the contract of names gives it."""

from __future__ import annotations

import numpy as np
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.support.builders import bounds, finish, request
from tests.support.metrics import by_name
from vibevoice_otel import semconv
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits


def test_every_series_has_the_labels_of_its_metric() -> None:
    """Each label that a metric is said to have, but for those that may be absent, and no other."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    FromSpans(Instruments(provider, "0", Limits(2000, 50_000)), bounds().step_labels(), 0.45).consume(finish(request()))
    found = by_name(reader)
    provider.shutdown()
    known = {metric.name: metric for metric in semconv.METRICS}
    assert {semconv.INFERENCE.name, semconv.FIRST_AUDIO.name, semconv.REQUESTS.name} <= found.keys()
    for name, points in found.items():
        labels = {attribute.key for attribute in known[name].attributes}
        needed = labels - {attribute.key for attribute in known[name].when_known}
        for point in points:
            assert needed <= point.attributes.keys() <= labels, name


def test_what_was_measured_of_a_step_is_recorded_where_it_is_known() -> None:
    """A measure that no step has costs the others nothing; steps beyond the last label share it; an exemplar names the
    step whose value it is.
    """
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    batch = finish(request(frames=1, steps=3))
    steps = batch.block(semconv.STEP)
    assert steps is not None
    unknown = np.full(3, np.nan)
    steps.measures.update(
        nobody=np.ones(3), memory_increase=unknown, memory_decrease=np.array([np.nan, 4.0, 8.0]),
        launch_latency=unknown, queue_latency=np.array([0.5, np.nan, np.nan]),
    )  # fmt: skip
    batch.device_id = "0"
    FromSpans(Instruments(provider, "0", Limits(2000, 50_000)), ("0", "1+"), 0.45).consume(batch)
    found = by_name(reader)
    provider.shutdown()
    assert semconv.MEMORY_INCREASE.name not in found
    assert semconv.LAUNCH_LATENCY.name not in found
    (decrease,) = found[semconv.MEMORY_DECREASE.name]
    assert (decrease.attributes["step_index"], decrease.count, decrease.sum) == ("1+", 2, 12.0)
    (waited,) = found[semconv.DEVICE_QUEUE.name]
    assert (dict(waited.attributes), waited.count, waited.sum) == ({"device_id": "0"}, 1, 0.5)
    assert {point.attributes["step_index"]: point.count for point in found[semconv.INFERENCE.name]} == {"0": 1, "1+": 2}
    assert {point.attributes["clock"] for point in found[semconv.INFERENCE.name]} == {"host"}
    assert all(point.attributes["voice"] == "en-Carter_man" for point in found[semconv.INFERENCE.name])
