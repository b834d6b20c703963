"""hypercorn, granian, several workers, a metrics port that is taken: traces and OTLP go on, and one line names the
variable.
"""

from __future__ import annotations

import importlib.util
import signal
import socket
import sys
from collections.abc import Callable

import pytest

from tests.reliability.harness import Service, Sink, free_port, wait_for

Start = Callable[..., Service]
METRICS = "vibevoice.streaming.requests"
REFUSED = "OTEL_METRICS_EXPORTER=prometheus does not work"


def server(name: str, port: int, *more: str) -> tuple[str, ...]:
    """How a user starts ``name``."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    at = {
        "hypercorn": ("speaker:app", "--bind", f"127.0.0.1:{port}"),
        "granian": ("--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), "speaker:app"),
        "uvicorn": ("speaker:app", "--port", str(port)),
    }
    return (sys.executable, "-m", name, *at[name], *more)


STARTS = [
    ("hypercorn", ()),
    ("hypercorn", ("--workers", "0")),
    ("hypercorn", ("--workers", "2")),
    ("hypercorn", ("--worker-class", "uvloop")),
    ("granian", ()),
    ("granian", ("--workers", "2")),
    ("granian", ("--loop", "uvloop")),
    ("uvicorn", ("--loop", "uvloop")),
]


@pytest.mark.parametrize(("name", "more"), STARTS)
def test_what_was_not_exported_is_exported_at_the_end(
    start: Start, sink: Sink, name: str, more: tuple[str, ...]
) -> None:
    """SIGTERM while exports are due in a minute: every request is traced and counted."""
    port = free_port()
    waits = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_METRIC_EXPORT_INTERVAL": "60000"}
    service = start(command=server(name, port, *more), port=port, **waits)
    assert all(each.chunks == 3 for each in service.speak(6))
    service.stop(signal.SIGTERM)
    assert wait_for(lambda: sink.roots()["success"] == 6), f"{sink.roots()}\n{service.log}"
    assert sink.total(METRICS, status="success") == 6


@pytest.mark.parametrize("more", [(), ("--workers", "0")])
def test_one_worker_of_hypercorn_serves_its_page(start: Start, sink: Sink, more: tuple[str, ...]) -> None:
    """The worker is a process of its own: the parent hands the port over."""
    port = free_port()
    service = start(command=server("hypercorn", port, *more), port=port, OTEL_METRICS_EXPORTER="otlp,prometheus")
    service.speak(4)
    assert wait_for(lambda: service.scraped("vibevoice_streaming_requests_total") == 4), service.log
    assert wait_for(lambda: sink.total(METRICS, status="success") == 4)
    assert REFUSED not in service.log


@pytest.mark.parametrize(
    ("name", "more"), [("hypercorn", ("--workers", "2")), ("granian", ()), ("granian", ("--workers", "2"))]
)
def test_several_workers_have_no_page_and_say_so(start: Start, sink: Sink, name: str, more: tuple[str, ...]) -> None:
    """Traces and OTLP metrics go on; the one line names the variable and the remedy."""
    port = free_port()
    service = start(command=server(name, port, *more), port=port, OTEL_METRICS_EXPORTER="prometheus,otlp")
    service.speak(6)
    assert wait_for(lambda: sink.roots()["success"] == 6), service.log
    assert wait_for(lambda: sink.total(METRICS, status="success") == 6)
    told = [line for line in service.log.splitlines() if "OTEL_METRICS_EXPORTER=prometheus,otlp does not work" in line]
    assert len(told) == 1, service.log
    assert "Set OTEL_METRICS_EXPORTER=otlp" in told[0]
    assert "Failed to auto initialize" not in service.log


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn"])
def test_a_metrics_port_that_is_taken_costs_the_page_alone(start: Start, sink: Sink, name: str) -> None:
    """Another program listens there: the service is traced, its OTLP metrics arrive, and one line says why there is no
    page.
    """
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        service = start(
            command=server(name, port), port=port, OTEL_METRICS_EXPORTER="otlp,prometheus",
            OTEL_EXPORTER_PROMETHEUS_PORT=str(taken), OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
        )  # fmt: skip
        service.speak(4)
        assert wait_for(lambda: sink.roots()["success"] == 4), service.log
        assert wait_for(lambda: sink.total(METRICS, status="success") == 4)
    assert service.log.count(f"port {taken} of 127.0.0.1 is taken by another program") == 1, service.log
