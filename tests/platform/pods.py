"""A foreign pod without a kubelet: the tree that is copied into it, made by the image's own Dockerfile, and its process
with the variables that the OpenTelemetry Operator sets.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.harness import Sink, wait_for
from tools.kubernetes import chart
from tools.ports import free_ports
from tools.toolchain import cache

DOCKERFILE = chart.KUBERNETES / "instrumentation" / "Dockerfile"
MINORS = ("3.10", "3.11", "3.12", "3.13")
MUSL = cache.root() / "musl-python3.11" / "bin" / "python3.11"
#: A pod's own program: it knows nothing of OpenTelemetry, and tells what it finds in its process.
PROGRAM = """
import sys, uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.get("/modules")
def modules():
    return sorted(sys.modules)
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
"""
#: What the tests' environment has of OpenTelemetry and of ours, and so a foreign pod has not.
OURS = (
    "opentelemetry",
    "vibevoice",
    "grpc",
    "google",
    "protobuf",
    "wrapt",
    "asgiref",
    "requests",
    "__editable__",
    "_vibevoice",
)


def interpreter(minor: str) -> str:
    """An interpreter of that minor version, or the one on musl; skips where there is none."""
    if minor == "musl":
        if not MUSL.is_file():
            pytest.skip("no Python on musl: run `make musl-python`")
        return str(MUSL)
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for candidate in (shutil.which(f"python{minor}"), *root.glob(f"versions/{minor}.*/bin/python{minor}")):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    pytest.skip(f"no Python {minor} here")


def environment_of(python: str, folder: Path) -> str:
    """The interpreter of a fresh environment."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    return str(folder / "bin" / "python")


def pip(python: str, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "-q", "--disable-pip-version-check", *arguments], cwd=chart.ROOT, check=True)


def made(python: str, folder: Path) -> Path:
    """The image's tree, by the pip commands of the Dockerfile."""
    (step,) = re.findall(r"^RUN (.*?)\nFROM", DOCKERFILE.read_text(), flags=re.DOTALL | re.MULTILINE)
    builder, tree = environment_of(python, folder / "build"), folder / "tree"
    for command in step.replace("\\\n", " ").split("&&"):
        program, *arguments = command.split()
        assert program == "pip"
        pip(builder, *(str(tree) if each == "/tree" else each for each in arguments))
    return tree


def injected(tree: Path, own: str = "") -> dict[str, str]:
    """The variables that the Operator sets for a pod whose tree lies there; ``own`` is the pod's own PYTHONPATH."""
    path = (f"{tree}/opentelemetry/instrumentation/auto_instrumentation", own, str(tree))
    return {
        "PYTHONPATH": ":".join(filter(None, path)), "OTEL_SERVICE_NAME": "foreign",
        "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }  # fmt: skip


@contextlib.contextmanager
def pod(sink: Sink, variables: dict[str, str], command: list[str], folder: Path) -> Iterator[Path]:
    """A pod's process that exports to the sink, soon, and its log."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VIBEVOICE_", "PYTHON"))
    }
    environment = {
        **clean, **variables, "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_METRIC_EXPORT_INTERVAL": "500", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    file = folder / "pod.log"
    with (
        file.open("w") as log,
        subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log) as process,
    ):
        try:
            yield file
        finally:
            process.terminate()
            process.wait(30)


def answered(url: str) -> bytes:
    """What the URL says; nothing while nobody answers."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read())
    return b""


def observed(sink: Sink, variables: dict[str, str], python: str, folder: Path) -> set[str]:
    """Run PROGRAM as a pod's and wait for its trace and its metrics; the modules in its process."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/modules"
    with pod(sink, variables, [python, "-c", PROGRAM, str(port)], folder) as log:
        assert wait_for(lambda: answered(url), 120), log.read_text()
        modules = set(json.loads(answered(url)))
        assert wait_for(lambda: any(span.name == "GET /modules" for span in sink.spans()), 60), log.read_text()
        assert wait_for(lambda: sink.series("http.server.duration"), 60), log.read_text()
    assert "Traceback" not in log.read_text()
    return modules


def bare(python: str, folder: Path) -> str:
    """The interpreter of an environment that holds what PROGRAM asks for, and nothing of ours."""
    fresh = environment_of(python, folder / "bare")
    pip(fresh, "install", "fastapi", "uvicorn", "numpy")
    return fresh
