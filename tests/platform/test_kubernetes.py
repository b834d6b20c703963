"""The chart's objects before a real Kubernetes API, and its autoscaler at work."""

from __future__ import annotations

import http.server
import itertools
import json
import math
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.stack.fixtures import eventually
from tools.kubernetes import chart
from tools.kubernetes.api import Kubernetes, RefusedError


@pytest.mark.parametrize("example", chart.examples())
def test_the_api_accepts_every_object(kubernetes: Kubernetes, example: str) -> None:
    """By server-side dry run, unknown fields refused, foreign objects against their operators' own definitions."""
    refused = {}
    things = chart.objects(example)
    for thing in things:
        try:
            kubernetes.create(chart.inside(thing), dry_run=True)
        except RefusedError as error:
            refused[f"{thing['kind']} {thing['metadata']['name']}"] = str(error)
    assert not refused
    assert len(things) > 5


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("Deployment", {"replicas": "two"}, "replicas"),
        ("Service", {"selectors": {}}, "unknown field"),
        ("PodMonitor", {"podMetricsEndpoints": [{"interval": "often"}]}, "interval"),
        ("ScaledObject", {"triggers": [{"type": "prometheus"}]}, "metadata"),
        ("Instrumentation", {"propagators": ["pigeon"]}, "propagators"),
    ],
)
def test_the_api_refuses_a_wrong_one(kubernetes: Kubernetes, kind: str, change: dict[str, Any], why: str) -> None:
    """So that acceptance says something: the same object with one field wrong, of each kind of definition."""
    thing = next(each for each in chart.objects("operators") if each["kind"] == kind)
    with pytest.raises(RefusedError, match=why):
        kubernetes.create(chart.inside({**thing, "spec": {**thing["spec"], **change}}), dry_run=True)


class Metrics:
    """The external metrics API: answers whatever ``values`` holds for a metric's name; a name without a value is an
    error.
    """

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        self.values: dict[str, float] = {}
        metrics = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.partition("?")[0].rpartition("/")[2]
                version = {"apiVersion": "external.metrics.k8s.io/v1beta1"}
                if name == "v1beta1":
                    body = {
                        "kind": "APIResourceList",
                        "apiVersion": "v1",
                        "groupVersion": version["apiVersion"],
                        "resources": [],
                    }
                    self._answer(200, body)
                elif name in metrics.values:
                    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                    value = f"{round(metrics.values[name] * 1000)}m"
                    item = {"metricName": name, "metricLabels": {}, "timestamp": stamp, "value": value}
                    self._answer(200, {"kind": "ExternalMetricValueList", **version, "metadata": {}, "items": [item]})
                else:
                    self._answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404})

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def metrics(kubernetes: Kubernetes, certificate: tuple[Path, Path]) -> Iterator[Metrics]:
    """The stub behind the API's own aggregation, as an adapter stands there."""
    stub = Metrics(certificate)
    name = {"name": "adapter", "namespace": chart.NAMESPACE}
    kubernetes.create(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": name,
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": stub.port}]},
        }
    )
    kubernetes.create(
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
            "spec": {
                "group": "external.metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
                "versionPriority": 100, "insecureSkipTLSVerify": True, "service": {**name, "port": stub.port},
            },
        }
    )  # fmt: skip
    yield stub
    stub.close()


LOAD, HELD = "vibevoice_load_pods", "vibevoice_scale_down_held"
#: A day is played in a minute and a half, so the chart's times are set in proportion: a change a second, stabilisation
#: over 5 s.
SHORT = ("streams.p99Seconds=2", "streams.modelLoadSeconds=1", "autoscaling.periodSeconds=1", "monitoring.rules=false")


class Scaled:
    """The chart's Deployment and HorizontalPodAutoscaler, really created."""

    def __init__(self, api: Kubernetes) -> None:
        self._api, self._path = api, ""
        for thing in chart.objects("embedded", *SHORT):
            if thing["kind"] in {"Deployment", "HorizontalPodAutoscaler"}:
                api.create(chart.inside(thing))
                if thing["kind"] == "Deployment":
                    self._path = f"{api.collection(chart.inside(thing))}/{thing['metadata']['name']}"
        api.manage()

    @property
    def replicas(self) -> int:
        """Pods that the autoscaler wants now."""
        return int(self._api.request("GET", f"{self._path}/scale")["spec"]["replicas"])


@pytest.fixture(scope="module")
def scaled(kubernetes: Kubernetes, metrics: Metrics) -> Scaled:
    metrics.values = {LOAD: 0.5, HELD: 0.0}
    running = Scaled(kubernetes)
    assert eventually(lambda: running.replicas == 2, 60), kubernetes.log()
    return running


def a_day(seed: int = 20) -> list[float]:
    """Load in pods every ten minutes of a day, simulated: streams of 20 s arrive as a Poisson process whose rate rises
    and falls once.

    A pod has 32 slots; the load is 0.8 pods at night and 2.4 at noon.
    """
    dice = np.random.default_rng(seed)
    ends, rows = np.empty(0), []
    for second in range(0, 86_400, 5):
        streams = 32 * (0.8 + 1.6 * max(0.0, math.sin(math.pi * (second - 21_600) / 43_200)) ** 2)  # open on average
        arrived = dice.poisson(streams / 20 * 5)
        ends = np.concatenate([ends[ends > second], second + dice.exponential(20, arrived)])
        if second % 600 == 0:
            rows.append(len(ends) / 32)
    return rows


def test_the_autoscaler_follows_a_day_from_two_to_four_and_back(scaled: Scaled, metrics: Metrics) -> None:
    """kube-controller-manager with the chart's behaviour: 2, up to 4, down to 2, one pod at a time, and it does not
    swing.
    """
    seen = [scaled.replicas]
    for load in a_day():
        metrics.values = {LOAD: load, HELD: 0.0}
        time.sleep(0.6)
        if scaled.replicas != seen[-1]:
            seen.append(scaled.replicas)
    metrics.values = {LOAD: 0.2, HELD: 0.0}
    assert eventually(lambda: scaled.replicas == 2, 30), seen
    seen += [2] if seen[-1] != 2 else []
    assert max(seen) == 4, seen
    changes = [after - before for before, after in itertools.pairwise(seen)]
    assert set(changes) == {1, -1}, seen
    turns = sum(first != second for first, second in itertools.pairwise(changes))
    assert turns <= 5, seen


def test_a_burning_budget_holds_the_pods_and_adds_none(scaled: Scaled, metrics: Metrics) -> None:
    """While first audio is late no pod is taken away, however low the load; once it is not, the pods go."""
    metrics.values = {LOAD: 2.0, HELD: 0.0}
    assert eventually(lambda: scaled.replicas == 3, 30)
    metrics.values = {LOAD: 0.1, HELD: 1.0}
    for _ in range(10):
        time.sleep(1)
        assert scaled.replicas == 3
    metrics.values = {LOAD: 0.1, HELD: 0.0}
    assert eventually(lambda: scaled.replicas == 2, 30)


def test_no_answer_keeps_the_pods(scaled: Scaled, metrics: Metrics) -> None:
    """Nothing measured is no reason to take a pod away."""
    metrics.values = {LOAD: 2.0, HELD: 0.0}
    assert eventually(lambda: scaled.replicas == 3, 30)
    for values in ({}, {LOAD: 0.1}, {HELD: 0.0}):
        metrics.values = dict(values)
        for _ in range(8):
            time.sleep(1)
            assert scaled.replicas == 3, values
    metrics.values = {LOAD: 0.1, HELD: 0.0}
    assert eventually(lambda: scaled.replicas == 2, 30)
