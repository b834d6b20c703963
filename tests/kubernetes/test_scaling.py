"""What the autoscaler asks is answered by a real Prometheus, with the shipped rules,
from a real service's own slots.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from websockets.sync.client import connect

from tests.stack.fixtures import eventually, need
from tools.kubernetes import chart
from tools.stack.collector import Collector
from tools.stack.prometheus import Prometheus
from tools.stack.service import Service, speak

NAME = "scaled"
SETTINGS = (f"serviceName={NAME}", "monitoring.dashboards=false")
ENVIRONMENT = {
    "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=production",
    "OTEL_METRIC_EXPORT_INTERVAL": "500",
    "VIBEVOICE_SERVICE_CONCURRENCY": "1",
    "VIBEVOICE_SERVICE_TIMEOUT": "240",
    "VIBEVOICE_SERVICE_FAULTS": '{"decode_delay": 0.2}',
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, agent: Collector, prometheus: Prometheus) -> Iterator[Service]:
    """A service with one slot whose streams take some seconds; one request has been answered and scraped."""
    with Service(tmp_path_factory.mktemp("scaled"), agent.grpc, ENVIRONMENT, name=NAME) as running:
        speak(running.address)
        yield running


def queries(example: str) -> dict[str, str]:
    """Every query of the example's autoscaler, by its name."""
    need("helm")
    found = {}
    for each in chart.objects(example, *SETTINGS):
        if each["kind"] == "ScaledObject":
            found |= {trigger["name"]: trigger["metadata"]["query"] for trigger in each["spec"]["triggers"]}
            assert all(trigger["metadata"]["ignoreNullValues"] == "false" for trigger in each["spec"]["triggers"])
        elif each["kind"] == "HorizontalPodAutoscaler":
            prefix = "vibevoice-otel/query-"
            notes = each["metadata"]["annotations"]
            found |= {name.removeprefix(prefix): query for name, query in notes.items() if name.startswith(prefix)}
    return found


@pytest.mark.parametrize("example", chart.examples())
def test_every_query_of_the_autoscaler_has_one_value(service: Service, prometheus: Prometheus, example: str) -> None:
    """The load and the hold, of the plain autoscaler and of KEDA, with the service's own gauge and without."""
    asked = queries(example)
    assert set(asked) == {"load", "held"}
    for query in asked.values():
        assert len(eventually(lambda query=query: prometheus.query(query))) == 1, query


def test_the_load_is_open_and_waiting_streams_over_capacity(service: Service, prometheus: Prometheus) -> None:
    """Four listeners of a service with one slot are a load of four pods, and nobody is one of none."""
    query = queries("operators")["load"]

    def load() -> list[float]:
        return [value for _, value in prometheus.query(query)]

    assert eventually(lambda: load() == [0]), load()
    with contextlib.ExitStack() as listening:
        # The first is spoken to for minutes, the others wait: there are four until they leave, however late one looks.
        address = f"ws://{service.address}/stream?{urlencode({'text': 'A sentence of some length. ' * 30})}"
        for _ in range(4):
            listening.enter_context(connect(address, max_size=None, open_timeout=60))
        assert eventually(lambda: load() == [4]), load()
    assert eventually(lambda: load() == [0]), load()


def test_a_service_that_says_nothing_gives_no_number(prometheus: Prometheus) -> None:
    """An empty answer, which both autoscalers take as an error and so keep the number of pods: no zero in its place."""
    need("helm")
    for each in chart.objects("operators", "serviceName=silent", "monitoring.dashboards=false"):
        if each["kind"] == "ScaledObject":
            assert [prometheus.query(trigger["metadata"]["query"]) for trigger in each["spec"]["triggers"]] == [[], []]
