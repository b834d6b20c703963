"""What an operator may choose of the service's exporter, and several workers in a pod, through the shipped agent into
Prometheus.
"""

from __future__ import annotations

import os
import re
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Counter, Histogram
from opentelemetry.sdk.metrics.export import AggregationTemporality
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation

from tests.reliability.harness import Service, free_port
from tests.reliability.test_workers import uvicorn
from tests.stack.emitter import Meters
from tests.stack.fixtures import *  # noqa: F403
from tests.stack.fixtures import eventually, need
from tools.stack.collector import Collector
from tools.stack.prometheus import Prometheus
from vibevoice_otel import semconv

from .test_identity import GIVEN, POD, ended

pytestmark = pytest.mark.stack
AGENT = Path(__file__).parents[2] / "collector" / "agent.yaml"
REQUESTS = semconv.REQUESTS.prometheus
VALUE = 0.37  # no edge
DELTA = {Counter: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA}
CHOICES = {
    "delta": {"preferred_temporality": DELTA},
    "exponential": {"preferred_aggregation": {Histogram: ExponentialBucketHistogramAggregation()}},
    "exponential-delta": {
        "preferred_temporality": DELTA,
        "preferred_aggregation": {Histogram: ExponentialBucketHistogramAggregation()},
    },
}


#: May hold a zero, which the Collector's conversion would lose: they keep their exponential buckets.
LEFT_OUT = re.compile(r"vibevoice\.(first_audio\.part|leading_silence|(probe\.)?playback|step)")


def test_the_agents_edges_are_ours() -> None:
    """An exponential histogram is counted in every bucket of every histogram of its unit; a new edge, or one at zero,
    fails here.
    """
    edges: dict[str, set[float]] = defaultdict(set)
    for metric in semconv.METRICS:
        if metric.instrument == "histogram" and not LEFT_OUT.match(metric.name):
            edges[metric.unit] |= set(metric.buckets)
            assert metric.buckets[0] > 0
    converting, correcting = yaml.safe_load(AGENT.read_text())["processors"]["transform/buckets"]["metric_statements"]
    wanted = {unit: sorted(each) for unit, each in edges.items()}
    for each, lower in ((converting, [0.0]), (correcting, [])):
        found = {}
        for line in each["statements"]:
            given, unit = re.fullmatch(
                r".*\[(.*)\]\) where .* metric.unit == "
                r'"([^"]*)".*',
                line,
            ).groups()  # type: ignore[union-attr]
            found[unit] = [float(edge) for edge in given.split(", ")]
        assert found == {unit: lower + each for unit, each in wanted.items()}


@pytest.fixture(scope="module", params=CHOICES)
def chosen(request: pytest.FixtureRequest, agent: Collector) -> Iterator[str]:
    """A service that exports so: each instrument recorded in three exports."""
    name = str(request.param)
    meters = Meters(OTLPMetricExporter(endpoint=agent.grpc, insecure=True, timeout=5, **CHOICES[name]), service=name)
    for _ in range(3):
        meters.record(value=VALUE)
        assert meters.flush()
    yield name
    meters.close()


def test_counts_are_whole_and_buckets_are_there(chosen: str, prometheus: Prometheus) -> None:
    """Every counter and histogram has what was recorded; every histogram has its own edges, and the value lies where it
    is.
    """

    def last(series: str) -> float | None:
        found = prometheus.query(series)
        return found[0][1] if len(found) == 1 else None

    def three(metric: semconv.Metric) -> bool:
        suffix, times = ("_count", 3.0) if metric.instrument == "histogram" else ("", 3 * VALUE)
        return last(f'{metric.prometheus}{suffix}{{service="{chosen}"}}') == pytest.approx(times)

    sums = [metric for metric in semconv.METRICS if metric.instrument in {"counter", "histogram"}]
    assert eventually(lambda: all(map(three, sums)), 60), [metric.name for metric in sums if not three(metric)]
    for metric in sums:
        if metric.instrument == "histogram":
            buckets = {
                float(labels["le"]): value
                for labels, value in prometheus.query(f'{metric.prometheus}_bucket{{service="{chosen}"}}')
            }
            if "exponential" in chosen and LEFT_OUT.match(metric.name):
                assert buckets == {float("inf"): 3.0}  # absent rather than false
                continue
            assert set(metric.buckets) <= set(buckets)
            assert buckets == {edge: 3.0 if edge > VALUE else 0.0 for edge in buckets}, metric.name


def test_workers_of_a_pod_through_the_agent(
    start: Callable[..., Service], agent: Collector, prometheus: Prometheus
) -> None:
    """The sum is every request; rate() joins target_info one to one; a worker's restart begins its series anew and adds
    no other.
    """
    port = free_port()
    exporter = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{agent.grpc}",
        "OTEL_SERVICE_NAME": "pod",
    }
    service = start(command=uvicorn(port, "--workers", "2"), port=port, OTEL_RESOURCE_ATTRIBUTES=POD, **exporter)
    success = f'{REQUESTS}{{service="pod",status="success"}}'
    made = 0

    def spoken(total: Callable[[int], bool]) -> bool:
        nonlocal made
        made += len(service.speak(8))
        return bool(eventually(lambda: total(made), 4))

    def whole(count: int) -> bool:
        found = prometheus.query(success)
        return sum(value for _, value in found) == count and {labels["instance"] for labels, _ in found} == {
            f"{GIVEN}.1",
            f"{GIVEN}.2",
        }

    assert eventually(lambda: spoken(whole), 60), (made, prometheus.query(success), service.log)
    joined = f"rate({success}[20s]) * on (job, instance) group_left (vibevoice_service_instance_given_id) target_info"
    assert eventually(lambda: len(prometheus.query(joined)) == len(prometheus.query(success)), 60), prometheus.query(
        joined
    )
    assert {labels["vibevoice_service_instance_given_id"] for labels, _ in prometheus.query(joined)} == {GIVEN}

    victim = int(re.search(r"\d+", service.get("/healthz")).group())  # type: ignore[union-attr]
    os.kill(victim, signal.SIGKILL)
    assert eventually(lambda: ended(victim), 60)
    assert eventually(lambda: len({service.get("/healthz") for _ in range(20)}) == 2, 120)

    def begun_anew() -> bool:
        service.speak(8)
        return bool(prometheus.query(f"sum(resets({success}[2m])) > 0"))

    assert eventually(begun_anew, 60), prometheus.query(success)
    assert {labels["instance"] for labels, _ in prometheus.query(success)} == {f"{GIVEN}.1", f"{GIVEN}.2"}


def test_scraped_directly_a_series_has_the_same_labels(
    start: Callable[..., Service], agent: Collector, prometheus: Prometheus, tmp_path: Path
) -> None:
    """Every series of ours, by deploy/prometheus/direct.yml and through the agent: the same label names, none that
    names the library.
    """
    need("prometheus")
    export = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{agent.grpc}"}
    page = {"OTEL_METRICS_EXPORTER": "otlp,prometheus", "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1"}
    service = start(
        OTEL_SERVICE_NAME="both", OTEL_RESOURCE_ATTRIBUTES="team=speech,service.instance.id=pod-9", **export, **page
    )
    service.speak(3)
    address = {"127.0.0.1:9464": f"127.0.0.1:{service.metrics_port}"}

    def labels(server: Prometheus, selector: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for series, _ in server.query(f'{{__name__=~"vibevoice_.*",{selector}}}'):
            found.setdefault(series.pop("__name__"), set()).update(series)
        return found

    with Prometheus(tmp_path, {}, config="direct.yml", interval="1s", replace=address) as direct:
        assert eventually(lambda: labels(direct, 'job="vibevoice"').get(REQUESTS), 60)
        assert eventually(lambda: labels(prometheus, 'service="both"').get(REQUESTS), 60)
        assert eventually(lambda: labels(direct, 'job="vibevoice"') == labels(prometheus, 'service="both"'), 60), (
            labels(direct, 'job="vibevoice"'),
            labels(prometheus, 'service="both"'),
        )
