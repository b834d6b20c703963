"""The OpenTelemetry Operator itself, with the chart's Instrumentation: the pod that comes out, and its process."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.platform.pods import bare, injected, made, observed
from tests.reliability.harness import Sink
from tests.stack.fixtures import eventually
from tools.kubernetes import chart
from tools.kubernetes.api import Kubernetes, RefusedError
from tools.kubernetes.operator import Operator
from vibevoice_otel.commands.demo.receiver import attributes

TREE = "/otel-auto-instrumentation-python"
#: What a kubelet would know of the pod.
NODE = {"spec.nodeName": "node-1", "status.podIP": "10.0.0.7", "status.hostIP": "10.0.0.1"}
NO_NUMBER = "spec.sampler.argument is not a number"
Object = dict[str, Any]


@pytest.fixture(scope="module")
def operated(
    kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[Kubernetes]:
    """The API with the Operator's webhooks, the controllers that make pods, and the chart's Instrumentation."""
    with Operator(kubernetes, tmp_path_factory.mktemp("operator"), certificate):
        kubernetes.manage()
        (instrumentation,) = rendered("Instrumentation")
        kubernetes.create(instrumentation)
        # The API and the Operator hear of each other's objects a moment later.
        assert eventually(lambda: injects(kubernetes), 60), kubernetes.log()
        assert eventually(lambda: NO_NUMBER in refusal(kubernetes, wrong()), 60), kubernetes.log()
        yield kubernetes


def rendered(kind: str, *settings: str) -> list[Object]:
    return [chart.inside(each) for each in chart.objects("operators", *settings) if each["kind"] == kind]


def injects(api: Kubernetes) -> bool:
    """Whether a pod of the chart's would be changed now."""
    (deployment,) = rendered("Deployment")
    pod = {"apiVersion": "v1", "kind": "Pod", **deployment["spec"]["template"]}
    pod["metadata"] = {**pod["metadata"], "name": "trial"}
    with contextlib.suppress(RefusedError):
        return bool(api.create(chart.inside(pod), dry_run=True)["spec"].get("initContainers"))
    return False


def wrong() -> Object:
    """An Instrumentation whose schema holds and whose sampler's share is no number."""
    (thing,) = rendered("Instrumentation")
    thing["metadata"]["name"] = "wrong"
    thing["spec"]["sampler"] = {"type": "traceidratio", "argument": "many"}
    return thing


def refusal(api: Kubernetes, thing: Object) -> str:
    """What the API would say against it; empty where it would take it."""
    try:
        api.create(thing, dry_run=True)
    except RefusedError as error:
        return str(error)
    return ""


def pod_of(api: Kubernetes, name: str, *settings: str) -> Object:
    """Create the chart's Deployment under that name; the first pod that its controllers make."""
    (deployment,) = rendered("Deployment", *settings)
    deployment["metadata"]["name"] = name
    for labels in (deployment["spec"]["selector"]["matchLabels"], deployment["spec"]["template"]["metadata"]["labels"]):
        labels["app.kubernetes.io/instance"] = name
    api.create(deployment)
    selector = f"app.kubernetes.io/instance={name}"
    pods = f"/api/v1/namespaces/{chart.NAMESPACE}/pods"
    found = eventually(lambda: api.request("GET", pods, labelSelector=selector)["items"], 60)
    assert found, api.log()
    return dict(found[0])


def variables(pod: Object) -> dict[str, str]:
    """The container's variables as a kubelet sets them: in their order, each with those before it put in."""
    known: dict[str, str] = {}
    metadata = {f"metadata.{name}": pod["metadata"][name] for name in ("name", "namespace", "uid")}
    for each in pod["spec"]["containers"][0]["env"]:
        if "valueFrom" in each:
            known[each["name"]] = {**metadata, **NODE}[each["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            value = each.get("value", "")
            known[each["name"]] = re.sub(r"\$\((\w+)\)", lambda found: known.get(found[1], found[0]), value)
    return known


def told_by(given: dict[str, str]) -> dict[str, str]:
    """The resource; the Operator names pod and node once more than the chart does, and both are to agree."""
    pairs = {tuple(each.split("=", 1)) for each in given["OTEL_RESOURCE_ATTRIBUTES"].split(",")}
    told = dict(pairs)
    assert len(told) == len(pairs), pairs
    return told


def test_the_pod_gets_the_tree_and_the_variables(operated: Kubernetes) -> None:
    """An init container copies the image's tree; PYTHONPATH, exporter and identity are set."""
    pod = pod_of(operated, "glibc")
    (init,) = pod["spec"]["initContainers"]
    assert init["command"] == ["cp", "-r", "/autoinstrumentation/.", TREE]
    (instrumentation,) = rendered("Instrumentation")
    assert init["image"] == instrumentation["spec"]["python"]["image"]
    (container,) = pod["spec"]["containers"]
    volume = next(each["name"] for each in container["volumeMounts"] if each["mountPath"] == TREE)
    assert volume in {each["name"] for each in init["volumeMounts"]} & {each["name"] for each in pod["spec"]["volumes"]}
    given = variables(pod)
    assert not [name for name, value in given.items() if "$(" in value]
    assert len(given) == len(container["env"])
    expected = {**injected(Path(TREE)), "OTEL_SERVICE_NAME": "vibevoice"}
    assert expected.items() <= given.items()
    assert given["OTEL_EXPORTER_OTLP_ENDPOINT"] == instrumentation["spec"]["exporter"]["endpoint"]
    told = told_by(given)
    assert told["k8s.pod.uid"] == pod["metadata"]["uid"]
    assert told["k8s.pod.name"] == pod["metadata"]["name"]
    assert told["k8s.node.name"] == "node-1"


def test_a_pod_on_musl_gets_the_other_tree(operated: Kubernetes) -> None:
    """By the annotation that the chart sets from ``instrumentation.libc``."""
    (init,) = pod_of(operated, "musl", "instrumentation.libc=musl")["spec"]["initContainers"]
    assert init["command"] == ["cp", "-r", "/autoinstrumentation-musl/.", TREE]


def test_a_path_of_the_pods_own_stays_between(operated: Kubernetes) -> None:
    pod = pod_of(operated, "own", "service.env[0].name=PYTHONPATH", "service.env[0].value=/app")
    assert variables(pod)["PYTHONPATH"] == injected(Path(TREE), "/app")["PYTHONPATH"]


def test_a_pod_without_the_annotation_stays_as_it_is(operated: Kubernetes) -> None:
    pod = pod_of(operated, "plain", "service.instrumentation=none")
    assert not pod["spec"].get("initContainers")
    assert not [name for name in variables(pod) if name.startswith("OTEL_")]


def test_the_operator_refuses_a_wrong_instrumentation(operated: Kubernetes) -> None:
    """So that its acceptance of the chart's says something."""
    assert NO_NUMBER in refusal(operated, wrong())


@pytest.mark.timeout(600)
def test_the_pods_process_is_observed(operated: Kubernetes, tmp_path: Path, sink: Sink) -> None:
    """With the variables that came out, the paths in them moved to where the tree lies here."""
    given = variables(pod_of(operated, "run"))
    tree = made(sys.executable, tmp_path)
    given = {name: value.replace(TREE, str(tree)) for name, value in given.items()}
    assert "vibevoice_otel.instrumentor" in observed(sink, given, bare(sys.executable, tmp_path), tmp_path)
    told = [
        attributes(resource.resource.attributes)
        for message in sink.of(ExportTraceServiceRequest)
        for resource in message.resource_spans
    ]
    assert told_by(given).items() <= told[0].items()
