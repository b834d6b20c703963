"""`make stack`: from nothing running to an exemplar's trace, and nothing left running after it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import psutil

from tests.stack.fixtures import eventually, need
from tools.ports import free_ports
from tools.toolchain.recipes import ROOT


def command(*arguments: str) -> list[str]:
    need("otelcol-vibevoice", "prometheus", "alertmanager")
    ports = zip(("--port", "--prometheus-port", "--alertmanager-port", "--traces-port"), free_ports(4), strict=True)
    return [
        sys.executable,
        "-m",
        "tools.stack",
        "--interval",
        "1s",
        *arguments,
        *(str(each) for pair in ports for each in pair),
    ]


def test_a_request_is_followed_to_its_trace_and_ctrl_c_ends_all() -> None:
    """One command shows a request's first-audio latency in Prometheus and its exemplar's trace; an interrupt leaves
    nothing running.
    """
    with subprocess.Popen(command(), cwd=ROOT, stdout=subprocess.PIPE, text=True) as stack:
        assert stack.stdout is not None
        said = []
        for line in stack.stdout:
            said.append(line)
            if line.strip() == "...":
                break
        parts = psutil.Process(stack.pid).children(recursive=True)
        stack.send_signal(signal.SIGINT)
        said.append(stack.stdout.read())
        assert stack.wait(120) == 0
    _, found, story = "".join(said).partition("Prometheus    vibevoice_first_audio_latency_seconds of en-Carter_man")
    assert found, "".join(said)
    trace_id = story.split("its exemplar  trace_id ")[1].split()[0]
    assert f"/{trace_id}" in story
    assert "vibevoice.synthesize" in story
    assert "vibevoice.generate" in story
    assert len(parts) >= 4
    assert eventually(lambda: not any(part.is_running() and part.status() != psutil.STATUS_ZOMBIE for part in parts))


def test_a_port_in_use_is_named() -> None:
    """Rather than talking to somebody else's Prometheus."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        done = subprocess.run(
            [*command(), "--prometheus-port", port], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert f"port {port} is in use: choose another with --prometheus-port" in done.stderr
