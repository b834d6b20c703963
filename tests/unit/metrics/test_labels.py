"""The labels of what is measured are those that the contract of names gives it."""

from __future__ import annotations

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
