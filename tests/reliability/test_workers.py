"""Several processes: sums are right, instances distinct, and one port for all of them is refused with a remedy."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.ports import free_port

from .harness import PATIENCE, Service, Sink, wait_for

Start = Callable[..., Service]
ROUND = 6


def uvicorn(port: int, *more: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "uvicorn", "speaker:app", "--port", str(port), *more)


def gunicorn(port: int, workers: int) -> tuple[str, ...]:
    logs = ("--access-logfile", "-")
    return (
        sys.executable, "-m", "gunicorn", "speaker:app", "-k", "uvicorn_worker.UvicornWorker", "-w", str(workers),
        "-b", f"127.0.0.1:{port}", *logs,
    )  # fmt: skip


def _sums(service: Service, sink: Sink, kinds: int) -> None:
    pids = set()

    def all_there() -> bool:
        pids.add(service.get("/healthz"))
        return len(pids) == kinds

    assert wait_for(all_there, 2 * PATIENCE), service.log
    made = 0

    def several() -> bool:
        """The system chooses who accepts: one worker may have a whole round."""
        nonlocal made
        heard = service.speak(ROUND)
        assert all(each.chunks == 3 for each in heard)
        made += ROUND
        return len(instances(sink)) > 1

    assert wait_for(several), service.log
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == made), service.log
    assert wait_for(lambda: sink.total("vibevoice.first_audio.latency") == made)
    time.sleep(1.2)  # two more exports change nothing
    assert sink.total("vibevoice.streaming.requests", status="success") == made
    assert sink.total("vibevoice.first_audio.latency") == made
    assert wait_for(lambda: sink.roots()["success"] == made)


def instances(sink: Sink) -> set[str]:
    return {instance for instance, _ in sink.series("vibevoice.streaming.requests")}


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
def test_the_sums_of_workers_are_right(start: Start, sink: Sink, server: str) -> None:
    """Four workers by OTLP: each has a service.instance.id of its own, and the sum over them is the number of requests
    exactly.
    """
    if server == "gunicorn" and importlib.util.find_spec("gunicorn") is None:
        pytest.skip("gunicorn is not installed")
    port = free_port()
    command = uvicorn(port, "--workers", "4") if server == "uvicorn" else gunicorn(port, 4)
    service = start(command=command, port=port)
    _sums(service, sink, 4)
    ids = instances(sink)
    # A worker that never spoke tells nothing; whoever did has an id that no other has, and its count is in the sum
    # once.
    assert 2 <= len(ids) <= 4
    assert "" not in ids
    service.stop(signal.SIGTERM)


def test_an_operators_instance_id_is_kept(start: Start, sink: Sink) -> None:
    """Where OTEL_RESOURCE_ATTRIBUTES names the instance, one process goes by that name and no other."""
    service = start(OTEL_RESOURCE_ATTRIBUTES="service.instance.id=pod-7")
    service.speak(2)
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == 2)
    assert instances(sink) == {"pod-7"}


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
def test_the_prometheus_page_of_several_workers_is_refused_once(start: Start, sink: Sink, server: str) -> None:
    """The service speaks and its traces arrive; there is no /metrics, and one error names the setting and the
    remedy.
    """
    if server == "gunicorn" and importlib.util.find_spec("gunicorn") is None:
        pytest.skip("gunicorn is not installed")
    port = free_port()
    command = uvicorn(port, "--workers", "2") if server == "uvicorn" else gunicorn(port, 2)
    service = start(command=command, port=port, OTEL_METRICS_EXPORTER="prometheus")
    assert all(each.chunks == 3 for each in service.speak(8))
    assert wait_for(lambda: sink.roots()["success"] == 8), service.log
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        service.metrics()
    told = [line for line in service.log.splitlines() if "OTEL_METRICS_EXPORTER=prometheus does not work" in line]
    assert len(told) == 1, service.log
    assert "Set OTEL_METRICS_EXPORTER=otlp" in told[0]
    assert "Failed to auto initialize" not in service.log


def test_one_worker_serves_its_page(start: Start) -> None:
    """With one worker /metrics is there, and complete."""
    service = start(OTEL_METRICS_EXPORTER="prometheus")
    service.speak(6)
    assert wait_for(lambda: service.scraped("vibevoice_streaming_requests_total") == 6)


def test_reload_works(start: Start, sink: Sink, tmp_path: Path) -> None:
    """Under --reload traces and /metrics work, before and after a change."""
    source = (Path(__file__).parent / "speaker.py").read_text()
    (tmp_path / "reloaded.py").write_text(source)
    port = free_port()
    command = (
        sys.executable, "-m", "uvicorn", "reloaded:app", "--app-dir", str(tmp_path), "--port", str(port),
        "--reload", "--reload-dir", str(tmp_path),
    )  # fmt: skip
    service = start(command=command, port=port, OTEL_METRICS_EXPORTER="prometheus")
    before = service.get("/healthz")
    service.speak(2)
    assert wait_for(lambda: service.scraped("vibevoice_streaming_requests_total") == 2), service.log
    (tmp_path / "reloaded.py").write_text(source + "\n# changed\n")

    def reloaded() -> bool:
        try:
            return service.get("/healthz") != before
        except OSError:
            return False

    assert wait_for(reloaded), service.log
    service.speak(3)
    assert wait_for(lambda: service.scraped("vibevoice_streaming_requests_total") == 3), (
        "the new process counts from zero"
    )
    assert wait_for(lambda: sink.roots()["success"] == 5), "the old one's spans were not lost"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_after_start(start: Start, sink: Sink) -> None:
    """A process that forks when it is instrumented and has recorded: parent and child count and export each
    their own.
    """
    program = Path(__file__).parent / "forking.py"
    launcher = (sys.executable, "-c", "from opentelemetry.instrumentation.auto_instrumentation import run; run()")
    environment = {
        **os.environ, "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint,
        "VIBEVOICE_OTEL_ROUTES": "/stream,/v2/stream",
    }  # fmt: skip
    done = subprocess.run(
        [*launcher, sys.executable, str(program)],
        check=False,
        env=environment,
        cwd=program.parent,
        capture_output=True,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert sink.roots() == Counter(success=5), done.stderr.decode()
    assert sink.total("vibevoice.streaming.requests", status="success") == 5
    by_instance = Counter[str]()
    for (instance, key), value in sink.series("vibevoice.streaming.requests").items():
        if ("status", "success") in key and value:
            by_instance[instance] += int(value)
    assert sorted(by_instance.values()) == [2, 3]
    assert len({span.trace_id for span in sink.spans("vibevoice.synthesize")}) == 5


def test_access_logs_of_real_servers_hide_the_text(start: Start) -> None:
    """Lines as uvicorn and gunicorn really print them."""
    servers: list[Callable[[int], tuple[str, ...]]] = [uvicorn]
    if importlib.util.find_spec("gunicorn") is not None:
        servers.append(lambda port: gunicorn(port, 1))
    for command_of in servers:
        port = free_port()
        service = start(command=command_of(port), port=port)
        service.speak(1, text="canary7f3a secret")
        with pytest.raises(urllib.error.HTTPError):
            service.get("/stream?text=canary7f3a&cfg=1.5")
        assert wait_for(lambda service=service: "text=REDACTED" in service.log), service.log  # type: ignore[misc]
        assert not re.search("canary7f3a", service.log), service.log
