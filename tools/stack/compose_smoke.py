"""``make compose-smoke``: the stack in containers, one request, its series, its exemplar's trace, Grafana's links; then all down again."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from tools.stack.prometheus import Api
from tools.stack.service import speak
from tools.toolchain.recipes import ROOT

T = TypeVar("T")
PROJECT = ["docker", "compose", "--project-name", "vibevoice-otel-smoke"]
FIRST_AUDIO = "vibevoice_first_audio_latency_seconds"


class SmokeError(RuntimeError):
    """Something that should have come did not."""


def main() -> int:
    """0 when all of it works, 1 when something does not, 2 where there is no Docker."""
    if shutil.which("docker") is None or _docker("info", check=False):
        print(
            "make compose-smoke needs Docker with its compose plugin and a running daemon. The same files run without it: make stack"
        )
        return 2
    try:
        print("Building and starting; the first time downloads about 2 GB", flush=True)
        _compose("up", "--detach", "--build", "--wait", "--wait-timeout", "900")
        _check()
    except (SmokeError, subprocess.CalledProcessError, OSError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        subprocess.run([*PROJECT, "logs", "--tail", "30"], cwd=ROOT, check=False)
        return 1
    finally:
        subprocess.run([*PROJECT, "down", "--volumes"], cwd=ROOT, check=False)
    return 0


def _check() -> None:
    chunks = speak("127.0.0.1:8000")
    print(f"ok  the service spoke: {chunks} chunks", flush=True)
    prometheus = Api("http://127.0.0.1:9090")
    _wait("its series in Prometheus", lambda: prometheus.query(f"{FIRST_AUDIO}_count"))
    _wait("host metrics", lambda: prometheus.query("system_memory_usage_bytes"))
    exemplars = _wait("an exemplar", lambda: prometheus.exemplars(f"{FIRST_AUDIO}_bucket"))
    trace_id = exemplars[-1]["labels"]["trace_id"]
    _wait(f"trace {trace_id} in Tempo", lambda: _json(f"http://127.0.0.1:3200/api/traces/{trace_id}"))
    down = [labels for labels, value in prometheus.query("up") if value != 1]
    if down:
        raise SmokeError(f"targets that Prometheus cannot scrape: {down}")
    print("ok  every target is up", flush=True)
    sources = {
        each["uid"] for each in _wait("Grafana's data sources", lambda: _json("http://127.0.0.1:3000/api/datasources"))
    }
    if sources != {"prometheus", "tempo", "alertmanager"}:
        raise SmokeError(f"Grafana's data sources are {sources}")
    _wait("dashboards in Grafana", lambda: _json("http://127.0.0.1:3000/api/search?type=dash-db"))
    _wait("the probe's series", lambda: prometheus.query("vibevoice_probe_requests_total"))


def _wait(what: str, look: Callable[[], T], seconds: float = 120) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            answer = look()
            if answer:
                print(f"ok  {what}", flush=True)
                return answer
        time.sleep(1)
    raise SmokeError(f"{what} did not come within {seconds:.0f} s")


def _json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def _docker(*arguments: str, check: bool = True) -> int:
    return subprocess.run(
        ["docker", *arguments], cwd=ROOT, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ).returncode


def _compose(*arguments: str) -> None:
    subprocess.run([*PROJECT, *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
