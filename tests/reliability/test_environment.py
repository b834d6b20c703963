"""What the operator sets, by the launcher as he sets it: samplers leave the metrics complete, and a slip costs
telemetry alone.
"""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest

from tools.ports import free_port

from .harness import Service, Sink, wait_for

Start = Callable[..., Service]
GOOD, BAD = 30, 10
SAMPLERS = {
    "traceidratio": ("0.01", None),
    "always_off": ("", 0),
    "parentbased_traceidratio": ("0.01", None),
    "parentbased_always_off": ("", 0),
    "parentbased_always_on": ("", GOOD + BAD),
    "vibevoice_tail": ("0", BAD),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_metrics_are_complete_under_each_sampler(start: Start, sink: Sink, sampler: str) -> None:
    """OTEL_TRACES_SAMPLER by its name: 40 requests are 40 counts; what is exported is what the sampler says, whole."""
    argument, expected = SAMPLERS[sampler]
    service = start(OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument, VIBEVOICE_OTEL_SLO_FIRST_AUDIO="60")
    # One chunk a request: between two, a busy machine may let the playback run dry, and the tail then keeps a success.
    service.speak(GOOD, chunks=1)
    service.speak(BAD, fail=1)
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests") == GOOD + BAD), service.log
    if expected:
        assert wait_for(lambda: sum(sink.roots().values()) == expected), sink.roots()
    service.stop()
    assert sink.total("vibevoice.streaming.requests", status="success") == GOOD
    assert sink.total("vibevoice.streaming.requests", status="error") == BAD
    assert sink.total("vibevoice.first_audio.latency") == GOOD
    roots = sink.roots()
    if expected is not None:
        assert sum(roots.values()) == expected
    if sampler == "vibevoice_tail":
        assert set(roots) == {"error/ValueError"}
    by_trace: dict[bytes, set[bytes]] = {}
    for span in sink.spans():
        by_trace.setdefault(span.trace_id, set()).add(span.span_id)
    servers = [span for span in sink.spans() if span.kind == 2 and span.name.endswith("/stream")]
    assert len(servers) == sum(roots.values()), "each has its SERVER span"
    assert all(not span.parent_span_id or span.parent_span_id in by_trace[span.trace_id] for span in sink.spans()), (
        "no orphan"
    )


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "VIBEVOICE_OTEL_MAX_STEPS",
            "-4",
            "VIBEVOICE_OTEL_MAX_STEPS='-4' is not valid: allowed is a whole number from 1 to 1000",
        ),
        ("VIBEVOICE_OTEL_MAXSTEPS", "4", "VIBEVOICE_OTEL_MAXSTEPS is not a setting"),
        ("OTEL_TRACES_SAMPLER", "nonsense", "nonsense"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "soon", "invalid value for export interval"),
        ("OTEL_TRACES_EXPORTER", "carrier-pigeon", "carrier-pigeon"),
    ],
)
def test_a_wrong_setting_costs_telemetry_alone(start: Start, name: str, value: str, says: str) -> None:
    """Ours and OpenTelemetry's: the service speaks as without us, and the log says what is wrong (of its own, in
    OpenTelemetry's words).
    """
    service = start(**{name: value})
    assert all(each.chunks == 3 and each.close_code == 1000 for each in service.speak(4))
    assert says in service.log, service.log


def test_a_service_listens_on_localhost_alone(start: Start) -> None:
    """With /metrics and the live page on, and nothing said of where but the page's port, every socket of the process is
    on the loopback.
    """
    page = free_port()
    service = start(OTEL_METRICS_EXPORTER="prometheus", VIBEVOICE_OTEL_PAGE=f"localhost:{page}")
    service.speak(1)
    listening = [
        each.laddr for each in service.family()[-1].net_connections("inet") if each.status == psutil.CONN_LISTEN
    ]
    assert {address.port for address in listening} == {service.port, service.metrics_port, page}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}
