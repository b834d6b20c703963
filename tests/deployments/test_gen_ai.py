"""The conventions of generative AI, where the operator opts in: their names beside ours, none of ours changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from tests.support.builders import MS, assembly, request
from tests.support.metrics import by_name
from tests.support.pipeline import pipeline
from vibevoice_otel import semconv
from vibevoice_otel.metrics import gen_ai
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.semconv import Status

NAME = "gen_ai.server.request.duration"


def batch(**more: object) -> Batch:
    """A finished request."""
    made = assembly(request()).finish(end=60 * MS)
    for name, value in more.items():
        setattr(made, name, value)
    return made


@contextmanager
def sink() -> Iterator[tuple[gen_ai.GenAi, InMemoryMetricReader]]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    yield gen_ai.GenAi(provider.get_meter("t")), reader
    provider.shutdown()


def points(reader: InMemoryMetricReader) -> list[HistogramDataPoint]:
    metrics = by_name(reader)
    assert metrics.keys() <= {NAME}
    return metrics.get(NAME, [])


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("gen_ai_latest_experimental", True),
        ("http, gen_ai_latest_experimental", True),
        ("gen_ai", False),
        ("gen_ai_latest", False),
        ("GEN_AI_LATEST_EXPERIMENTAL", False),
        ("", False),
    ],
)
def test_one_value_opts_in(value: str, wanted: bool) -> None:
    """And no other that resembles it."""
    assert gen_ai.opted_in({"OTEL_SEMCONV_STABILITY_OPT_IN": value}) is wanted


def test_a_request_has_their_attributes_and_their_duration() -> None:
    """The span keeps all of ours and has two more; the metric's value is the span's duration, its exemplar the span."""
    plain, told = batch(), batch()
    with sink() as (consumer, reader):
        consumer.consume(told)
        (point,) = points(reader)
    before, after = (
        next(each for each in made.operations if each.span is semconv.SYNTHESIZE) for made in (plain, told)
    )
    assert after.attributes == {
        **before.attributes,
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "vibevoice",
    }
    assert point.attributes == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "vibevoice",
        "gen_ai.request.model": "tiny",
    }
    assert (point.count, point.sum) == (1, pytest.approx(after.seconds))
    assert [each.span_id for each in point.exemplars] == [after.span_id]


@pytest.mark.parametrize(
    ("more", "recorded"),
    [
        ({"status": Status.ERROR, "error_type": "RuntimeError"}, "RuntimeError"),
        ({"status": Status.TIMEOUT, "error_type": "timeout"}, "timeout"),
        ({"status": Status.REJECTED, "error_type": "busy"}, None),
        ({"status": Status.CANCELLED}, None),
        ({"synthetic": True}, None),
        ({"warm_up": True}, None),
        ({"profiled": True}, None),
    ],
)
def test_what_is_recorded_is_the_services_own_duration(more: dict[str, object], recorded: str | None) -> None:
    """A failure with its error.type; neither a refusal, nor a listener who left, nor what is not a user's request."""
    with sink() as (consumer, reader):
        consumer.consume(batch(**more))
        found = points(reader)
    assert [each.attributes["error.type"] for each in found] == ([recorded] if recorded else [])  # type: ignore[index]


@pytest.mark.parametrize("opted", [True, False])
def test_a_whole_service_that_opts_in(opted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable alone: their names come beside ours, which are the same either way."""
    if opted:
        monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental")
    with pipeline() as observed:
        observed.run(b"text=hello&voice=en-Carter_man")
        (root,) = [span for span in observed.spans() if span.name == str(semconv.SYNTHESIZE)]
        requests = observed.points(semconv.REQUESTS.name)
        theirs = observed.points(NAME)
    assert ("gen_ai.operation.name" in (root.attributes or {})) is opted
    assert len(theirs) == opted
    assert sum(point.value for point in requests) == 1


def test_nothing_of_ours_reads_it() -> None:
    """No dashboard, rule or alert sums their names and ours."""
    from pathlib import Path

    root = Path(__file__).parents[2] / "dashboards"
    files = [path for path in root.rglob("*") if path.suffix in {".json", ".yml", ".py"}]
    assert files
    assert not [path for path in files if "gen_ai_server" in path.read_text() or NAME in path.read_text()]
    assert semconv.GEN_AI_REQUEST_DURATION not in semconv.METRICS
