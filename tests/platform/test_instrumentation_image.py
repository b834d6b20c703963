"""The tree that the OpenTelemetry Operator copies into a foreign pod, made by its own Dockerfile's commands, for each Python here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.reliability.harness import Sink, wait_for
from tools.kubernetes import chart
from tools.ports import free_ports

DOCKERFILE = chart.KUBERNETES / "instrumentation" / "Dockerfile"
MINORS = ("3.10", "3.11", "3.12", "3.13")
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


def interpreter(minor: str) -> str:
    """An interpreter of that minor version, or skip."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for candidate in (shutil.which(f"python{minor}"), *root.glob(f"versions/{minor}.*/bin/python{minor}")):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    pytest.skip(f"no Python {minor} here")


def recipe() -> list[list[str]]:
    """The pip commands of the Dockerfile."""
    (step,) = re.findall(r"^RUN (.*?)\nFROM", DOCKERFILE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [command.split() for command in step.replace("\\\n", " ").split("&&")]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("minor", MINORS)
def test_a_foreign_pod_is_observed_by_pythonpath_alone(minor: str, tmp_path: Path) -> None:
    """In a bare environment of that Python: nothing installed of ours, no grpcio, traces and metrics by http/protobuf."""
    python = interpreter(minor)
    build, bare, tree = tmp_path / "build", tmp_path / "bare", tmp_path / "tree"
    for folder in (build, bare):
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    for pip, *arguments in recipe():
        assert pip == "pip"
        placed = [str(tree) if each == "/tree" else each for each in arguments]
        command = [str(build / "bin" / "python"), "-m", "pip", "-q", "--disable-pip-version-check", *placed]
        subprocess.run(command, cwd=chart.ROOT, check=True)
    assert not [path.name for path in tree.iterdir() if path.name.startswith(("grpc", "numpy", "torch"))]

    own = [
        str(bare / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "fastapi",
        "uvicorn",
        "numpy",
    ]
    subprocess.run(own, check=True)
    sink, (port,) = Sink(), free_ports(1)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VIBEVOICE_", "PYTHON"))},
        # As the Operator sets them.
        "PYTHONPATH": f"{tree}/opentelemetry/instrumentation/auto_instrumentation:{tree}",
        "OTEL_SERVICE_NAME": "foreign", "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }  # fmt: skip
    with (
        (tmp_path / "log").open("w+") as log,
        subprocess.Popen(
            [str(bare / "bin" / "python"), "-c", PROGRAM, str(port)],
            env=environment,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            assert wait_for(lambda: answers(port), 60), (tmp_path / "log").read_text()
            modules = set(json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/modules", timeout=10).read()))
            assert wait_for(lambda: any(span.name == "GET /modules" for span in sink.spans())), (
                tmp_path / "log"
            ).read_text()
            assert wait_for(
                lambda: sink.series("http.server.duration"), 20
            )  # every request of the host, by its own middleware
        finally:
            process.terminate()
            process.wait(30)
            sink.close()
    assert "vibevoice_otel.instrumentor" in modules
    assert not {"grpc", "vibevoice_otel.service", "torch"} & modules
    assert "Traceback" not in (tmp_path / "log").read_text()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/modules", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_the_list_is_what_the_project_depends_on() -> None:
    """requirements/instrumentation.txt holds nothing that the service's own list has at another version."""
    pinned = {
        name: set(
            re.findall(r"^([a-z0-9-]+)==([^ ]+)", (chart.ROOT / "requirements" / name).read_text(), flags=re.MULTILINE)
        )
        for name in ("service.txt", "instrumentation.txt")
    }
    assert pinned["instrumentation.txt"] <= pinned["service.txt"]
