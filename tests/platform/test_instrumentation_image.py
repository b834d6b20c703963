"""The tree that the OpenTelemetry Operator copies into a foreign pod, made by its own Dockerfile's commands, for each
Python here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.harness import Sink, wait_for
from tests.upstream.client import listen
from tests.upstream.trees import make_double
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
    """An interpreter of that minor version, or skip."""
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


@contextlib.contextmanager
def pod(sink: Sink, tree: Path, command: list[str], folder: Path, own: str = "", **more: str) -> Iterator[Path]:
    """A pod's process with the variables that the Operator sets, and its log; ``own`` is the pod's own PYTHONPATH."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VIBEVOICE_", "PYTHON"))
    }
    path = (f"{tree}/opentelemetry/instrumentation/auto_instrumentation", own, str(tree))
    environment = {
        **clean, "PYTHONPATH": ":".join(filter(None, path)), "OTEL_SERVICE_NAME": "foreign",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_METRIC_EXPORT_INTERVAL": "500", "OMP_NUM_THREADS": "1", **more,
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


@pytest.fixture
def sink() -> Iterator[Sink]:
    receiver = Sink()
    yield receiver
    receiver.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("minor", MINORS)
def test_a_foreign_pod_is_observed_by_pythonpath_alone(minor: str, tmp_path: Path, sink: Sink) -> None:
    """In a bare environment of that Python: nothing installed of ours, no grpcio,
    traces and metrics by http/protobuf.
    """
    python = interpreter(minor)
    tree = made(python, tmp_path)
    assert not [path.name for path in tree.iterdir() if path.name.startswith(("grpc", "numpy", "torch"))]
    bare, (port,) = environment_of(python, tmp_path / "bare"), free_ports(1)
    pip(bare, "install", "fastapi", "uvicorn", "numpy")
    with pod(sink, tree, [bare, "-c", PROGRAM, str(port)], tmp_path) as log:
        url = f"http://127.0.0.1:{port}/modules"
        assert wait_for(lambda: answered(url), 60), log.read_text()
        modules = set(json.loads(answered(url)))
        assert wait_for(lambda: any(span.name == "GET /modules" for span in sink.spans())), log.read_text()
        assert wait_for(lambda: sink.series("http.server.duration"))
    assert "vibevoice_otel.instrumentor" in modules
    assert not {"grpc", "vibevoice_otel.service", "torch"} & modules
    assert "Traceback" not in log.read_text()


@pytest.mark.timeout(600)
def test_an_unchanged_speech_server_is_traced(tmp_path: Path, sink: Sink) -> None:
    """Upstream's server, as the tests' double of it, with packages of its own and nothing of OpenTelemetry: a request
    is a whole trace.
    """
    tree, packages = made(sys.executable, tmp_path), tmp_path / "packages"
    packages.mkdir()
    (installed,) = {Path(pytest.__file__).parents[1]}
    for each in installed.iterdir():
        if not each.name.lower().startswith(OURS) and each.suffix != ".pth":
            (packages / each.name).symlink_to(each)
    server = make_double(tmp_path / "server")
    (port,) = free_ports(1)
    command = [
        environment_of(sys.executable, tmp_path / "bare"),
        "-m",
        "uvicorn",
        "demo.web.app:app",
        "--port",
        str(port),
    ]
    more = {"MODEL_PATH": str(server.model), "MODEL_DEVICE": "cpu"}
    with pod(sink, tree, command, server.path, f"{packages}:{server.path}", **more) as log:
        assert wait_for(lambda: answered(f"http://127.0.0.1:{port}/config"), 90), log.read_text()
        heard = asyncio.run(listen(port, text="Good morning.", voice="en-Carter_man"))
        assert heard.chunks, log.read_text()
        assert wait_for(lambda: sink.roots()["success"] == 1), log.read_text()
        assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == 1)
    names = {span.name for span in sink.spans() if span.trace_id.hex() == heard.trace_id}
    assert {"vibevoice.synthesize", "vibevoice.generate", "vibevoice.frame", "vibevoice.diffusion.step"} <= names
    assert "Good morning" not in sink.all_text()


def test_the_list_is_what_the_project_depends_on() -> None:
    """requirements/instrumentation.txt holds nothing that the service's own list has at another version."""
    line = re.compile(r"^([a-z0-9-]+)==([^ ]+)", flags=re.MULTILINE)
    service, ours = (
        set(line.findall((chart.ROOT / "requirements" / f"{name}.txt").read_text()))
        for name in ("service", "instrumentation")
    )
    assert ours <= service
