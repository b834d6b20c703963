"""Start the observed server as a user does, under opentelemetry-instrument, with the witness inside and a sink for what
it sends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.swallowed import swallowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .sink import Sink
    from .trees import Tree

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
#: ``opentelemetry-instrument`` without relying on where scripts are installed: its entry point's own function.
LAUNCHER = (sys.executable, "-c", "from opentelemetry.instrumentation.auto_instrumentation import run; run()")
UVICORN = (sys.executable, "-m", "uvicorn", "demo.web.app:app", "--host", "127.0.0.1", "--port", "0")
#: What a server prints once it listens; uvicorn also says when the application is ready.
RUNNING = re.compile(r"(Uvicorn running|Serving) on http://[\w.]+:(\d+)")
READY = "Application startup complete"


@dataclass
class Server:
    port: int
    process: subprocess.Popen[bytes]
    log_file: Path
    counts_file: Path
    sink: Sink

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def config(self, timeout: float = 120.0) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/config", timeout=timeout) as answer:
            return json.load(answer)  # type: ignore[no-any-return]

    def counts(self) -> dict[str, int]:
        """How often each function of the model has run so far, by the witness."""
        self.counts_file.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        until = time.monotonic() + 120
        while not self.counts_file.exists():
            if time.monotonic() > until:
                raise TimeoutError("the witness did not answer")
            time.sleep(0.01)
        return json.loads(self.counts_file.read_text())  # type: ignore[no-any-return]

    def sends(self, trace_id: str) -> list[tuple[int, int]]:
        """When the server's own ``send`` was entered for this request (monotonic ns), and with how many bytes."""
        lines = (line.split() for line in (self.counts_file.parent / "sends").read_text().splitlines())
        return [(int(at), int(size)) for trace, at, size in lines if trace == trace_id]


def _witness(where: Path) -> None:
    """A package on the path whose entry point installs the witness before anything is instrumented."""
    info = where / "upstream_witness-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(HERE / "counting.py", where / "upstream_witness.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: upstream-witness\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[opentelemetry_pre_instrument]\nwitness = upstream_witness:install\n")


@contextmanager
def serve(
    tree: Tree,
    sink: Sink,
    where: Path,
    *,
    command: Sequence[str] = UVICORN,
    environment: dict[str, str] | None = None,
) -> Iterator[Server]:
    """Run ``command`` in ``tree`` until the block ends (SIGINT, as Ctrl-C).

    Args:
        tree: what is served.
        sink: where its telemetry goes.
        where: a folder of this server's own, for its log and counts.
        command: as the user types it after ``opentelemetry-instrument``.
        environment: more variables.
    """
    _witness(where / "witness")
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(where / "witness"), str(tree.path), str(REPOSITORY))),
        "PYTHONUNBUFFERED": "1",
        "TQDM_DISABLE": "1",
        "UPSTREAM_LOOPBACK": "1",
        "MODEL_PATH": str(tree.model),
        "MODEL_DEVICE": "cpu",
        "UPSTREAM_COUNTS": str(where / "counts.json"),
        "UPSTREAM_SENDS": str(where / "sends"),
        "OTEL_SERVICE_NAME": "vibevoice",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        **(environment or {}),
    }
    log_file = where / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*LAUNCHER, *command], cwd=tree.path, env=variables, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield Server(_port(process, log_file), process, log_file, where / "counts.json", sink)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        swallowed.read(log_file.read_text(errors="replace"))


def _port(process: subprocess.Popen[bytes], log_file: Path, seconds: float = 240.0) -> int:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        text = log_file.read_text(errors="replace")
        found = RUNNING.search(text)
        if found and (found[1] == "Serving" or READY in text):
            return int(found[2])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log_file.read_text(errors='replace')[-4000:]}")
