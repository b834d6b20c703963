"""Workers that are given one service.instance.id are told apart: a back end that keeps one series for each identity has
every request.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable

import psutil
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.reliability.harness import PATIENCE, Service, Sink, free_port, wait_for
from tests.reliability.test_workers import gunicorn, uvicorn

from .test_servers import server

Start = Callable[..., Service]
GIVEN = "speech.pod-7.app"
POD = f"service.instance.id={GIVEN},deployment.environment.name=prod"
METRICS = "vibevoice.streaming.requests"


def resources(sink: Sink, kind: type) -> list[dict[str, str]]:
    """The resources of all exports of a signal."""
    field = {ExportTraceServiceRequest: "resource_spans", ExportMetricsServiceRequest: "resource_metrics"}.get(
        kind, "resource_logs"
    )
    return [
        {pair.key: pair.value.string_value for pair in each.resource.attributes}
        for message in sink.of(kind)
        for each in getattr(message, field)
    ]


def identities(sink: Sink) -> set[str]:
    return {instance for instance, _ in sink.series(METRICS)}


def ended(pid: int) -> bool:
    """Whether a process is there no more, or waits to be reaped alone."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def both_speak(service: Service, sink: Sink, requests: int) -> None:
    """Speak in rounds until two workers have; then as many requests arrive as were made."""
    made = 0

    def two() -> bool:
        nonlocal made
        made += len(service.speak(requests))
        return wait_for(
            lambda: len({i for (i, key), v in sink.series(METRICS).items() if v and ("status", "success") in key}) == 2,
            2,
        )

    assert wait_for(two), service.log
    assert wait_for(lambda: sink.total(METRICS, status="success") == made), (sink.series(METRICS), made)
    assert wait_for(lambda: sink.roots()["success"] == made), service.log


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn", "hypercorn", "granian"])
def test_the_workers_of_a_pod_are_counted_whole(start: Start, sink: Sink, name: str) -> None:
    """The given id, a dot and the worker's number; spans and metrics say the same; the given id stands beside it."""
    port = free_port()
    command = {
        "uvicorn": lambda: uvicorn(port, "--workers", "2"),
        "gunicorn": lambda: gunicorn(port, 2),
    }.get(name, lambda: server(name, port, "--workers", "2"))()
    service = start(command=command, port=port, OTEL_RESOURCE_ATTRIBUTES=POD, OTEL_LOGS_EXPORTER="otlp")
    both_speak(service, sink, 8)
    assert identities(sink) == {f"{GIVEN}.1", f"{GIVEN}.2"}
    for kind in (ExportTraceServiceRequest, ExportMetricsServiceRequest):
        told = [each for each in resources(sink, kind) if each["service.instance.id"] != GIVEN]  # the parent's own
        assert {each["service.instance.id"] for each in told} == {f"{GIVEN}.1", f"{GIVEN}.2"}
        assert {each["vibevoice.service.instance.given_id"] for each in told} == {GIVEN}
        assert {each["deployment.environment.name"] for each in told} == {"prod"}
    logs = resources(sink, ExportLogsServiceRequest)
    assert {each["service.instance.id"] for each in logs} <= {GIVEN, f"{GIVEN}.1", f"{GIVEN}.2"}


def test_a_worker_that_replaces_another_takes_its_number(start: Start, sink: Sink) -> None:
    """One worker is killed: its successor goes by the same identity, and no third one appears."""
    port = free_port()
    service = start(command=uvicorn(port, "--workers", "2"), port=port, OTEL_RESOURCE_ATTRIBUTES=POD)
    both_speak(service, sink, 8)
    victim = int(service.get("/healthz").split(":")[1].strip("}"))
    os.kill(victim, signal.SIGKILL)
    assert wait_for(lambda: ended(victim))

    def replaced() -> bool:
        service.speak(8)
        return len({service.get("/healthz") for _ in range(20)}) == 2

    assert wait_for(replaced, 2 * PATIENCE), service.log
    service.stop(signal.SIGTERM)
    assert identities(sink) == {f"{GIVEN}.1", f"{GIVEN}.2"}


def test_the_setting_leaves_the_given_id(start: Start, sink: Sink) -> None:
    """VIBEVOICE_OTEL_WORKER_INSTANCE=false: every worker of uvicorn goes by what was given,
    as the operator wants it.
    """
    port = free_port()
    service = start(
        command=uvicorn(port, "--workers", "2"),
        port=port,
        OTEL_RESOURCE_ATTRIBUTES=POD,
        VIBEVOICE_OTEL_WORKER_INSTANCE="false",
    )
    service.speak(8)
    assert wait_for(lambda: sink.roots()["success"] == 8)
    assert wait_for(lambda: identities(sink)), service.log
    assert identities(sink) == {GIVEN}


PROGRAM = """
import multiprocessing, os, subprocess, sys, time
from opentelemetry import _logs, metrics, trace

def tell(name, *deeper):
    providers = trace.get_tracer_provider(), _logs.get_logger_provider()
    ids = {each.resource.attributes["service.instance.id"] for each in providers}
    ids.add(metrics.get_meter_provider()._sdk_config.resource.attributes["service.instance.id"])
    sys.stdout.write(" ".join([name, *sorted(ids)]) + "\\n")  # one write: children of one pipe must not mix their lines
    sys.stdout.flush()
    if deeper:
        started(*deeper)

def started(method, *names):
    context = multiprocessing.get_context(method)
    told = [(name, "spawn", name + "-child") if name == "deep" else (name,) for name in names]
    children = [context.Process(target=tell, args=each) for each in told]
    for each in children:
        each.start()
    for each in children:
        each.join()

if __name__ == "__main__":
    tell("parent")
    started(*sys.argv[1:])
    if sys.argv[1] == "plain":
        pass
"""


def told(tmp_path: object, *arguments: str, program: str = PROGRAM, **environment: str) -> dict[str, str]:
    """The identities that a program under the launcher and its children print."""
    script = tmp_path / "program.py"  # type: ignore[operator]
    script.write_text(textwrap.dedent(program))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VIBEVOICE_"))}
    quiet = {f"OTEL_{each}_EXPORTER": "none" for each in ("TRACES", "METRICS", "LOGS")}
    launch = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", launch, sys.executable, str(script), *arguments],
        env=clean | quiet | {"OTEL_RESOURCE_ATTRIBUTES": POD} | environment, capture_output=True, text=True,
        timeout=2 * PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_children_of_a_program_are_workers_too(tmp_path: object, method: str) -> None:
    """All signals of a child say one identity; the parent keeps the given one; a grandchild has its parent's number."""
    found = told(tmp_path, method, "one", "deep")
    numbers = {found["one"], found["deep"]}
    assert found["parent"] == GIVEN
    assert numbers == {f"{GIVEN}.1", f"{GIVEN}.2"}
    assert found["deep-child"] == f"{found['deep']}.1"


def test_a_number_is_used_again_once_its_worker_has_ended(tmp_path: object) -> None:
    """Three workers after one another are one series after another, not three."""
    program = PROGRAM.replace("each.start()", "each.start(); each.join()")
    found = told(tmp_path, "spawn", "a", "b", "c", program=program)
    assert found["a"] == found["b"] == found["c"] == f"{GIVEN}.1"


def test_without_a_number_the_part_is_random(tmp_path: object) -> None:
    """The children of a fork server, which was started before: distinct all the same."""
    found = told(tmp_path, "forkserver", "a", "b")
    parts = {found[name].removeprefix(f"{GIVEN}.") for name in ("a", "b")}
    assert len(parts) == 2
    assert all(len(part) == 4 for part in parts)


def test_a_program_that_is_no_worker_keeps_the_given_id(tmp_path: object) -> None:
    """A child by subprocess, of a worker at that, and a fork that is no worker's (the SDK gives it an id of
    its own).
    """
    program = PROGRAM.replace(
        "    if deeper:",
        "    if name == 'runs':\n        subprocess.run([sys.executable, sys.argv[0], 'spawn'], check=True)\n    if "
        "deeper:",
    ).replace('tell("parent")', 'tell("parent" if len(sys.argv) > 2 else "by-subprocess")')
    found = told(tmp_path, "fork", "runs", program=program)
    assert found == {"parent": GIVEN, "runs": f"{GIVEN}.1", "by-subprocess": GIVEN}


@pytest.mark.parametrize("given", ["deployment.environment.name=prod", ""])
def test_what_the_sdk_made_up_is_left_alone(tmp_path: object, given: str) -> None:
    """Without an id from outside each process has the SDK's own, and nothing is appended."""
    found = told(tmp_path, "spawn", "a", "b", OTEL_RESOURCE_ATTRIBUTES=given)
    assert len(set(found.values())) == 3
    assert all(len(each) == 36 for each in found.values())
