"""Prometheus alone, taking OTLP itself: the same names and labels as through the Collector, exemplars too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.trace import SpanContext, TraceFlags

from tests.stack.emitter import Meters
from tests.stack.fixtures import eventually, need
from tools.stack.prometheus import Prometheus
from vibevoice_otel import semconv

SPAN = SpanContext(0xABCDEF, 0x123456, is_remote=False, trace_flags=TraceFlags(1))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    need("prometheus")
    folder = tmp_path_factory.mktemp("alone")
    with Prometheus(folder, config="otlp.yml", flags=("--web.enable-otlp-receiver",)) as server:
        meters = Meters(OTLPMetricExporter(endpoint=f"{server.url}/api/v1/otlp/v1/metrics"), service="alone")
        meters.record(SPAN)
        assert meters.flush()
        meters.close()
        assert eventually(lambda: server.query("vibevoice_build_info"))
        yield server


@pytest.mark.parametrize("metric", semconv.METRICS, ids=lambda metric: metric.prometheus)
def test_the_same_names_and_labels(metric: semconv.Metric, alone: Prometheus) -> None:
    """Every series is named and labelled as through the Collector; job is the service's name."""
    found = alone.query(metric.prometheus + ("_count" if metric.instrument == "histogram" else ""))
    assert len(found) == 1
    labels, value = found[0]
    assert labels.keys() == {
        "__name__",
        "job",
        "instance",
        "service_name",
        "deployment_environment_name",
        *metric.labels,
    }
    assert labels["job"] == labels["service_name"] == "alone"
    assert value == 1


def test_exemplars_come_this_way_too(alone: Prometheus) -> None:
    """A bucket's exemplar names the span."""
    found = alone.exemplars("vibevoice_first_audio_latency_seconds_bucket")
    assert {each["labels"]["trace_id"] for each in found} == {format(SPAN.trace_id, "032x")}
