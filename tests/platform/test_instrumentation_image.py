"""The tree that the OpenTelemetry Operator copies into a foreign pod, made by its own Dockerfile's commands, for each
Python here.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.platform.pods import MINORS, OURS, answered, bare, environment_of, injected, interpreter, made, observed, pod
from tests.reliability.harness import Sink, wait_for
from tests.upstream.client import listen
from tests.upstream.trees import make_double
from tools.kubernetes import chart
from tools.ports import free_ports


@pytest.mark.timeout(600)
@pytest.mark.parametrize("minor", [*MINORS, "musl"])
def test_a_foreign_pod_is_observed_by_pythonpath_alone(minor: str, tmp_path: Path, sink: Sink) -> None:
    """In a bare environment of that Python: nothing installed of ours, no grpcio,
    traces and metrics by http/protobuf.
    """
    python = interpreter(minor)
    tree = made(python, tmp_path)
    assert not [path.name for path in tree.iterdir() if path.name.startswith(("grpc", "numpy", "torch"))]
    foreign = "-linux-gnu" if minor == "musl" else "-linux-musl"
    assert not [path.name for path in tree.rglob(f"*{foreign}*.so")]
    modules = observed(sink, injected(tree), bare(python, tmp_path), tmp_path)
    assert "vibevoice_otel.instrumentor" in modules
    assert not {"grpc", "vibevoice_otel.service", "torch"} & modules


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
    own = {"MODEL_PATH": str(server.model), "MODEL_DEVICE": "cpu"}
    with pod(sink, {**injected(tree, f"{packages}:{server.path}"), **own}, command, server.path) as log:
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
