"""The chart beyond its schema: what it renders holds together, in every example."""

from __future__ import annotations

import functools
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.stack.fixtures import need
from tools.kubernetes import chart

EXAMPLES = chart.examples()
Object = dict[str, Any]


@functools.cache
def rendered(example: str, *settings: str) -> tuple[Object, ...]:
    need("helm")
    return tuple(chart.objects(example, *settings))


def of(kind: str, example: str) -> list[Object]:
    return [each for each in rendered(example) if each["kind"] == kind]


def named(kind: str, example: str, end: str) -> Object:
    (found,) = (each for each in of(kind, example) if each["metadata"]["name"].endswith(end))
    return found


def templates(example: str) -> list[Object]:
    return [each["spec"]["template"] for each in rendered(example) if "template" in each.get("spec", {})]


def matched(selector: dict[str, str], example: str) -> list[Object]:
    return [each for each in templates(example) if selector.items() <= each["metadata"]["labels"].items()]


def ports(template: Object) -> set[str]:
    return {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}


@pytest.mark.parametrize("example", EXAMPLES)
def test_helm_accepts_the_chart(example: str) -> None:
    """By its own linter, strictly, with the values of each example."""
    need("helm")
    chart.lint("--values", str(chart.EXAMPLES / f"{example}.yaml"))


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_committed_manifests_are_what_the_chart_renders(example: str) -> None:
    """`make kubernetes` writes them anew."""
    need("helm")
    assert chart.path(example).read_text() == chart.committed(example)


def test_the_schema_knows_exactly_the_values() -> None:
    """Every value has a type, and no type is of a value that does not exist."""
    values = yaml.safe_load((chart.CHART / "values.yaml").read_text())
    schema = json.loads((chart.CHART / "values.schema.json").read_text())

    def compare(value: Any, part: Object, path: str) -> None:
        if "properties" not in part:
            return
        assert part["additionalProperties"] is False, path
        assert set(part["properties"]) - {"global"} - {"requests", "limits"} <= set(value), path
        for name, inner in value.items():
            compare(inner, part["properties"][name], f"{path}.{name}")

    compare(values, schema, "")


@pytest.mark.parametrize(
    "setting",
    ["streams.maxSecond=3", "service.port=0", "autoscaling.kind=vpa", "gateways.share=2", "agent.tracesEndpoint=tempo"],
)
def test_a_wrong_value_is_refused(setting: str) -> None:
    """By the schema, before anything is rendered; the message names the value."""
    need("helm")
    with pytest.raises(chart.HelmError, match=setting.split("=", maxsplit=1)[0].split(".", maxsplit=1)[0]):
        chart.render(None, setting)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_selector_matches_one_pod_template(example: str) -> None:
    """Of each Service, PodMonitor, PodDisruptionBudget and workload; and the ports that they name are the
    containers'.
    """
    for each in rendered(example):
        spec, kind = each.get("spec", {}), each["kind"]
        if kind == "Service":
            (template,) = matched(spec["selector"], example)
            assert {port["targetPort"] for port in spec["ports"]} <= ports(template)
        elif kind in {"PodMonitor", "PodDisruptionBudget", "Deployment", "DaemonSet", "StatefulSet"}:
            (template,) = matched(spec["selector"]["matchLabels"], example)
            assert {end["port"] for end in spec.get("podMetricsEndpoints", ())} <= ports(template)
            if kind in {"Deployment", "DaemonSet", "StatefulSet"}:
                assert template == spec["template"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_probes_and_mounts_name_what_exists(example: str) -> None:
    """A probe's port, a mounted volume, a ConfigMap and its key, a scale target."""
    maps = {each["metadata"]["name"]: each["data"] for each in of("ConfigMap", example)}
    claims = {
        each["metadata"]["name"]: {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", ())}
        for each in rendered(example)
        if "template" in each.get("spec", {})
    }
    for owner in (each for each in rendered(example) if "template" in each.get("spec", {})):
        spec = owner["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in spec.get("volumes", ())} | claims[owner["metadata"]["name"]]
        for volume in spec.get("volumes", ()):
            assert volume.get("configMap", {}).get("name", next(iter(maps))) in maps
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
            for argument in container.get("args", ()):
                assert argument.rpartition("/")[2] in maps[owner["metadata"]["name"]]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in {port["name"] for port in container["ports"]}
    workloads = {each["metadata"]["name"]: each["spec"] for each in of("Deployment", example)}
    for scaler in (*of("ScaledObject", example), *of("HorizontalPodAutoscaler", example)):
        assert "replicas" not in workloads[scaler["spec"]["scaleTargetRef"]["name"]]


@pytest.mark.parametrize("example", EXAMPLES)
def test_no_pod_gets_variables_of_services(example: str) -> None:
    """Of a Service named vibevoice-service Kubernetes would make VIBEVOICE_SERVICE_PORT=tcp://..., which begins as our
    own settings do.
    """
    for template in templates(example):
        assert template["spec"]["enableServiceLinks"] is False


def test_the_first_tier_sends_to_every_gateway_by_its_name() -> None:
    """GATEWAYS lists as many pods as the StatefulSet has, under the headless Service that governs it."""
    gateway = named("StatefulSet", "embedded", "-gateway")
    service = named("Service", "embedded", "-gateway")
    assert service["spec"]["clusterIP"] == "None"
    assert gateway["spec"]["serviceName"] == service["metadata"]["name"]
    (container,) = named("StatefulSet", "embedded", "-gateway-lb")["spec"]["template"]["spec"]["containers"]
    (listed,) = (json.loads(each["value"]) for each in container["env"] if each["name"] == "GATEWAYS")
    name = gateway["metadata"]["name"]
    assert listed == [f"{name}-{i}.{name}.speech.svc:4317" for i in range(gateway["spec"]["replicas"])]


def test_traces_take_the_tier_that_is_there() -> None:
    """With the gateways the agent sends to the first tier, and the service offers exemplars of the kept share alone."""
    for example, endpoint, share in (
        ("plain", "tempo.monitoring.svc:4317", "1"),
        ("operators", "-gateway-lb.speech.svc:4317", "0.1"),
    ):
        (agent,) = named("DaemonSet", example, "-agent")["spec"]["template"]["spec"]["containers"]
        assert {each["name"]: each.get("value") for each in agent["env"]}["TRACES_ENDPOINT"].endswith(endpoint)
        (service,) = named("Deployment", example, "-service")["spec"]["template"]["spec"]["containers"]
        assert {each["name"]: each.get("value") for each in service["env"]}["VIBEVOICE_OTEL_TRACE_SHARE"] == share


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_drain_is_longer_than_what_it_waits_for(example: str) -> None:
    """Grace period: deregistration, the longest stream and the last export; stabilisation: P99 of a stream and a pod's
    start.
    """
    streams = yaml.safe_load((chart.CHART / "values.yaml").read_text())["streams"]
    pod = named("Deployment", example, "-service")["spec"]["template"]["spec"]
    needed = streams["deregisterSeconds"] + streams["maxSeconds"] + streams["flushSeconds"]
    assert pod["terminationGracePeriodSeconds"] > needed
    for scaler in of("HorizontalPodAutoscaler", example) + of("ScaledObject", example):
        spec = scaler["spec"]
        behavior = spec.get("behavior") or spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] > streams["p99Seconds"] + streams["modelLoadSeconds"]
        for direction in behavior.values():
            assert [policy["value"] for policy in direction["policies"]] == [1]


def test_the_operator_injects_what_the_pod_asks_for() -> None:
    """The annotation names the Instrumentation, which speaks http/protobuf to the agent of the pod's own node."""
    (instrumentation,) = of("Instrumentation", "operators")
    pod = named("Deployment", "operators", "-service")["spec"]["template"]
    assert (
        pod["metadata"]["annotations"]["instrumentation.opentelemetry.io/inject-python"]
        == instrumentation["metadata"]["name"]
    )
    agent = named("Service", "operators", "-agent")
    assert agent["spec"]["internalTrafficPolicy"] == "Local"
    assert instrumentation["spec"]["exporter"]["endpoint"] == f"http://{agent['metadata']['name']}.speech.svc:4318"
    assert {"name": "OTEL_EXPORTER_OTLP_PROTOCOL", "value": "http/protobuf"} in instrumentation["spec"]["python"]["env"]


def test_rules_and_dashboards_are_the_shipped_ones() -> None:
    """Whole, and with the labels by which they are found."""
    rules = [group for each in of("PrometheusRule", "operators") for group in each["spec"]["groups"]]
    files = sorted((chart.ROOT / "dashboards" / "rules").glob("*.yml"))
    assert rules == [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    boards = {
        name: json.loads(text)
        for each in of("ConfigMap", "operators")
        if "grafana_dashboard" in each["metadata"]["labels"]
        for name, text in each["data"].items()
    }
    shipped = (chart.ROOT / "dashboards" / "generated").glob("*.json")
    assert boards == {path.name: json.loads(path.read_text()) for path in shipped}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


NEVER = 100_000  # seconds: a script that waits so long has not seen what it waits for, and pytest ends it


def wait_for_streams(port: int, deregister: int, maximum: int) -> float:
    """When the script ended, which a container runs before its SIGTERM (seconds of the monotonic clock)."""
    script = (chart.CHART / "files" / "wait_for_streams.py").read_text()
    command = [sys.executable, "-c", script, str(port), str(deregister), str(maximum)]
    assert subprocess.run(command, check=False).returncode == 0
    return time.monotonic()


def test_a_server_that_cuts_streams_off_is_stopped_after_the_last(listener: socket.socket) -> None:
    """The script returns once the last connection has ended, and at its maximum where one does not."""
    port, left = listener.getsockname()[1], list[float]()
    wait_for_streams(port, 0, NEVER)
    client = socket.create_connection(("127.0.0.1", port))
    accepted, _ = listener.accept()
    began = time.monotonic()
    assert wait_for_streams(port, 0, 2) - began > 2

    def leave() -> None:
        left.append(time.monotonic())
        client.close()
        accepted.close()

    threading.Timer(3, leave).start()
    ended = wait_for_streams(port, 0, NEVER)
    assert left[0] < ended
