"""A real trace store, explored as an operator does: from a slow voice's histogram to the step that was slow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.fixtures import eventually
from tools.stack.collector import Collector
from tools.stack.jaeger import Jaeger
from tools.stack.prometheus import Prometheus
from tools.stack.service import Service, speak

NAME, SLOW = "explored", "fr-Spk0_man"
BUCKETS = "vibevoice_inference_duration_seconds_bucket"


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    with Jaeger(tmp_path_factory.mktemp("jaeger")) as store:
        yield store


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, jaeger: Jaeger) -> Iterator[Prometheus]:
    """The pipeline of `make stack` behind a service of which one voice's steps are slow;
    each of two voices has spoken.
    """
    folder = tmp_path_factory.mktemp("explored")
    environment = {
        "OTEL_METRIC_EXPORT_INTERVAL": "1500",
        "VIBEVOICE_SERVICE_FAULTS": f'{{"slow_voices": {{"{SLOW}": 0.08}}}}',
    }
    with (
        Collector("agent", folder / "agent", jaeger.endpoint) as agent,
        Prometheus(folder / "prometheus", {"agent": [agent.metrics]}, interval="1s") as server,
        Service(folder, agent.grpc, environment, name=NAME) as service,
    ):
        for voice in ("en-Carter_man", SLOW):
            speak(service.address, "Good morning.", voice)
        yield server


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values())) for pair in span.get("attributes", ())}


def test_from_a_slow_bucket_to_the_slow_step(prometheus: Prometheus, jaeger: Jaeger) -> None:
    """The histogram names the voice, its exemplar the trace, the trace the frame and the step; and a search finds the
    same trace.
    """
    mean = "sum by (voice) (vibevoice_inference_duration_seconds_{})"
    worst = f"topk(1, {mean.format('sum')} / {mean.format('count')})"
    (found,) = eventually(lambda: prometheus.query(worst), 30)
    assert eventually(lambda: prometheus.query(worst)[0][0]["voice"] == SLOW, 30), found
    exemplar = eventually(lambda: prometheus.exemplars(f'{BUCKETS}{{voice="{SLOW}"}}'), 30)[-1]["labels"]

    def whole() -> dict[str, dict[str, Any]] | None:
        """The trace, once all batches of its spans have come: its first span is the last to end."""
        found = {span["spanId"]: span for span in jaeger.trace(exemplar["trace_id"])}
        named = {span["name"] for span in found.values()}
        return found if exemplar["span_id"] in found and "vibevoice.synthesize" in named else None

    spans = eventually(whole, 60)
    assert spans is not None
    named = spans[exemplar["span_id"]]
    assert named["name"] in {"vibevoice.diffusion.step", "vibevoice.frame"}
    steps = [span for span in spans.values() if span["name"] == "vibevoice.diffusion.step"]
    assert steps
    length = [(int(step["endTimeUnixNano"]) - int(step["startTimeUnixNano"])) / 1e9 for step in steps]
    assert min(length) >= 0.08  # the fault that was put in, and nothing else of the trace, is the slow part
    chain, span = [], named
    while span.get("parentSpanId") in spans:
        span = spans[span["parentSpanId"]]
        chain.append(span["name"])
    assert "vibevoice.generate" in chain
    assert "vibevoice.synthesize" in chain
    assert {"key": "service.name", "value": {"stringValue": NAME}} in span["resource"]

    assert jaeger.services() >= {NAME}
    by_search = jaeger.search(NAME, "vibevoice.synthesize", {"vibevoice.voice": SLOW}, "500ms")
    assert by_search == [exemplar["trace_id"]]
    assert exemplar["trace_id"] not in jaeger.search(NAME, "vibevoice.synthesize", {"vibevoice.voice": "en-Carter_man"})
