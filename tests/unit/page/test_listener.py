"""What a browser reports is believed about itself alone, and within bounds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.builders import finish, request
from tests.support.metrics import by_name
from vibevoice_otel import semconv
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.page import listener
from vibevoice_otel.page.listener import Listeners, Report, ReportError, check
from vibevoice_otel.page.store import Store, StoredRequest
from vibevoice_otel.traceparent import Caller

NOW = 1_800_000_000.0


def report(**changes: Any) -> dict[str, Any]:
    return {
        "trace": "ab" * 16, "started": NOW - 3, "first_sound": 0.29, "seconds": 2.5, "outcome": "complete",
        "underruns": 2,
        "underrun_seconds": 0.25, "played_seconds": 2.1, "clock_offset": 0.5, "clock_error": 0.001, "close_code": 1000,
        **changes,
    }  # fmt: skip


def test_a_report_is_placed_on_the_servers_clock() -> None:
    """The measured offset is applied to every time, and the durations stay."""
    checked = check(report(), NOW)
    assert checked.started == int((NOW - 2.5) * 1e9)
    assert checked.first_audio == pytest.approx(0.29, abs=1e-6)
    assert checked.ended - checked.started == 2_500_000_000


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"started": NOW + 60}, "started"), ({"started": 0}, "started"), ({"started": "now"}, "started"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": 1e9}, "seconds"), ({"first_sound": 2.6}, "first_sound"), ({"first_sound": -0.1}, "first_sound"),
        ({"underruns": -1}, "underruns"), ({"underruns": 1e9}, "underruns"), ({"underruns": True}, "underruns"),
        ({"underrun_seconds": 99}, "underrun_seconds"), ({"played_seconds": 99}, "played_seconds"),
        ({"clock_offset": 1e6}, "clock_offset"),
        ({"clock_error": -1}, "clock_error"), ({"clock_error": float("nan")}, "clock_error"),
        ({"clock_error": None}, "clock_error"), ({"outcome": "<b>"}, "outcome"), ({"close_code": 7}, "close_code"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    """Each value has bounds, and the refusal says which one was broken."""
    with pytest.raises(ReportError, match=f"^{named} must be"):
        check(report(**changes), NOW)


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_a_report_is_an_object(data: object) -> None:
    """Any JSON may arrive."""
    with pytest.raises(ReportError):
        check(data, NOW)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def test_a_caller_is_not_known_for_ever(exporter: InMemorySpanExporter) -> None:
    """Only requests that named their caller can be reported, and the memory of them is bounded: the latest stay."""
    expecting = listeners(exporter, None)
    for number in range(listener.MAX_CALLERS + 5):
        expecting.expect(Caller(number + 1, 7))
    assert list(expecting.callers.items()) == [(number + 1, 7) for number in range(5, listener.MAX_CALLERS + 5)]


def listeners(exporter: InMemorySpanExporter, reader: InMemoryMetricReader | None) -> Listeners:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instruments = Instruments(MeterProvider([reader]), "0", Limits(100, 10_000)) if reader is not None else None
    return Listeners(provider.get_tracer("t"), instruments)


def kept(*, sampled: bool = True) -> StoredRequest:
    store = Store(10, 1_000_000)
    store.consume(dataclasses.replace(finish(request()), sampled=sampled, recording=sampled))
    found = store.find("1")
    assert found is not None
    return found


def heard(**changes: Any) -> Report:
    return check(report(**changes), NOW)


def test_the_span_has_the_id_that_the_request_named(exporter: InMemorySpanExporter) -> None:
    """It is a CLIENT span at the top of the request's own trace, with the offset applied and its error stated."""
    told = listeners(exporter, None).record(kept(), 0xB0B, heard())
    (span,) = exporter.get_finished_spans()
    assert span.context is not None
    assert (span.name, span.kind, span.parent) == (semconv.LISTEN.name, SpanKind.CLIENT, None)
    assert (span.context.trace_id, span.context.span_id) == (0xABC, 0xB0B)
    assert span.attributes is not None
    assert span.attributes[semconv.LISTENER_CLOCK_ERROR.key] == 0.001
    assert span.attributes[semconv.LISTENER_CLOCK_OFFSET.key] == 0.5
    assert span.attributes[semconv.LISTENER_UNDERRUNS.key] == 2
    assert span.start_time == int((NOW - 2.5) * 1e9)
    assert told["exported"] is True
    assert set(span.attributes) <= {attribute.key for attribute in semconv.LISTEN.attributes}


def test_a_lost_connection_is_an_error_and_leaving_is_none(exporter: InMemorySpanExporter) -> None:
    """The listener's own view of the end is on his span."""
    emit = listeners(exporter, None)
    for outcome in ("dropped", "stopped", "complete"):
        emit.record(kept(), 1, heard(outcome=outcome))
    assert [span.status.status_code for span in exporter.get_finished_spans()] == [
        StatusCode.ERROR,
        StatusCode.UNSET,
        StatusCode.UNSET,
    ]


def test_a_request_that_is_not_sampled_has_no_listener_span(exporter: InMemorySpanExporter) -> None:
    """One decision for the whole trace."""
    assert listeners(exporter, None).record(kept(sampled=False), 1, heard())["exported"] is False
    assert exporter.get_finished_spans() == ()


def test_the_metrics_are_the_listeners_own(exporter: InMemorySpanExporter) -> None:
    """With the opt-in, what the browser heard is counted, apart from everything that the server measures."""
    reader = InMemoryMetricReader()
    listeners(exporter, reader).record(kept(), 0xB0B, heard())
    metrics = {name: points[0] for name, points in by_name(reader).items()}
    assert set(metrics) == {semconv.LISTENER_FIRST_AUDIO.name, semconv.LISTENER_UNDERRUN.name}
    assert metrics[semconv.LISTENER_FIRST_AUDIO.name].sum == pytest.approx(0.29, abs=1e-6)  # type: ignore[union-attr]
    assert metrics[semconv.LISTENER_UNDERRUN.name].value == 2  # type: ignore[union-attr]
    assert dict(metrics[semconv.LISTENER_UNDERRUN.name].attributes or {}) == {"voice": "en-Carter_man"}
