"""The embedded service as a process of its own, under one kind of telemetry each, and a receiver of what it exports."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
from typing_extensions import Self

from tools.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
SERVICE, NAIVE = "vibevoice_otel.service.main:app", "benchmarks.naive_service:app"
NONE, STOCK, SPANS, OURS, PAGE = (
    "no telemetry",
    "stock FastAPI instrumentation",
    "naive spans",
    "ours, everything on",
    "ours and the live page",
)


class Receiver:
    """Takes OTLP over HTTP without looking into it; counts bytes by path."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self.bodies: list[bytes] | None = None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.bytes[self.path] = receiver.bytes.get(self.path, 0) + len(body)
                if receiver.bodies is not None and self.path == "/v1/traces":
                    receiver.bodies.append(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Server:
    """A running service."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.base = f"ws://127.0.0.1:{port}"
        self._process = psutil.Process(process.pid)

    def cpu(self) -> float:
        """Seconds of CPU time spent so far, children too."""
        total = 0.0
        for each in (self._process, *self._process.children(recursive=True)):
            times = each.cpu_times()
            total += times.user + times.system
        return total


@contextmanager
def serve(kind: str, endpoint: str, service: dict[str, str] | None = None) -> Iterator[Server]:
    """Start the service with telemetry of ``kind``, wait until it answers, end it afterwards."""
    port = free_port()
    binaries = Path(sys.executable).parent
    app = NAIVE if kind == SPANS else SERVICE
    command = [str(binaries / "uvicorn"), app, "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "VIBEVOICE_"))} | {
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "VIBEVOICE_SERVICE_CONCURRENCY": "4", **(service or {}),
    }  # fmt: skip
    if kind != NONE:
        command.insert(0, str(binaries / "opentelemetry-instrument"))
        environment |= {
            "OTEL_SERVICE_NAME": "benchmark",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "15000",
            "OTEL_BSP_MAX_QUEUE_SIZE": "20000",
        }
        if kind in {STOCK, SPANS}:
            environment["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "vibevoice"
        if kind == PAGE:
            environment["VIBEVOICE_OTEL_PAGE"] = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait(process, port)
        yield Server(process, port)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(600):
        if process.poll() is not None:
            assert process.stderr is not None
            raise RuntimeError(f"the service ended at once: {process.stderr.read().decode()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError("the service did not answer within two minutes")
