"""What the reference lists for a resource is set there, and what the operator set is kept,
alike on spans and metrics.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.reliability.harness import Service, Sink, free_port, wait_for
from tests.reliability.test_workers import uvicorn

from .test_identity import resources

PAGE = Path(__file__).parents[2] / "docs" / "telemetry.md"
KINDS = (ExportTraceServiceRequest, ExportMetricsServiceRequest)


def listed() -> set[str]:
    """The attributes of the reference's section on resources."""
    section = PAGE.read_text().split("### On the resource of a worker")[1].split("\n#")[0]
    return set(re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE))


def told(start: Callable[..., Service], sink: Sink, attributes: str, *options: str) -> list[dict[str, str]]:
    """The resources of all exports of a service that has spoken."""
    port = free_port()
    service = start(command=uvicorn(port, *options), port=port, OTEL_RESOURCE_ATTRIBUTES=attributes)
    service.speak(4)
    assert wait_for(lambda: sink.roots()["success"] == 4 and sink.total("vibevoice.streaming.requests") == 4), (
        service.log
    )
    return [each for kind in KINDS for each in resources(sink, kind)]


def test_what_is_listed_is_set(start: Callable[..., Service], sink: Sink) -> None:
    """Workers that share an id: each of their resources has every attribute of the list."""
    assert listed()
    found = told(start, sink, "service.instance.id=pod-7", "--workers", "2")
    assert all(listed() <= each.keys() for each in found if each["service.instance.id"] != "pod-7")
    assert any(each["service.instance.id"] != "pod-7" for each in found)


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("team=speech%20team", {"team": "speech team"}),
        ("k8s.pod.name=a-1,k8s.namespace.name=tts", {"k8s.pod.name": "a-1", "k8s.namespace.name": "tts"}),
        ("service.instance.id=pod-7,team=%E8%AF%AD", {"team": "语"}),
    ],
)
def test_the_operators_own_are_kept(
    start: Callable[..., Service], sink: Sink, given: str, kept: dict[str, str], options: tuple[str, ...]
) -> None:
    """On spans and on metrics, decoded, whether the id was shared or not."""
    found = told(start, sink, given, *options)
    assert found
    assert all(kept.items() <= each.items() for each in found)


def test_one_process_has_nothing_of_a_worker(start: Callable[..., Service], sink: Sink) -> None:
    """What was given is the id, and no second attribute says so."""
    found = told(start, sink, "service.instance.id=pod-7")
    assert {each["service.instance.id"] for each in found} == {"pod-7"}
    assert not any(listed() & each.keys() for each in found)
