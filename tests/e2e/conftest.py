"""The embedded service in a process of its own under the real launcher; its traces arrive here, its metrics are
scraped.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
import pytest
import websockets

from tests.support.swallowed import swallowed
from tools.otlp import Receiver
from tools.ports import free_port
from vibevoice_otel.commands.demo.receiver import ReceivedSpan
from vibevoice_otel.commands.demo.whole import SERVER_KIND, whole

ROOT = "vibevoice.synthesize"
ERROR_STATUS = 2  # opentelemetry.proto.trace.v1.Status.STATUS_CODE_ERROR
#: Seconds in which a service does what it is to do, on a busy machine too; the longest wait, and no measure of it.
PATIENCE = 60.0


@dataclass
class Answer:
    """What a client saw of one request; moments are time.time_ns()."""

    began: int
    first_audio: int | None = None
    ended: int = 0
    audio: bytes = b""
    chunks: int = 0
    logs: list[str] = field(default_factory=list)
    close_code: int | None = None


class Running:
    """A service under the launcher."""

    def __init__(self, receiver: Receiver, environment: Mapping[str, str], launcher: bool = True) -> None:
        self.receiver = receiver
        self.port, self.metrics_port = free_port(), free_port()
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        values = {
            **os.environ,
            "OTEL_SERVICE_NAME": "e2e",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(self.metrics_port),
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        command = [sys.executable, "-m", "vibevoice_otel.service", "--port", str(self.port)]
        if launcher:
            command.insert(0, str(Path(sys.executable).with_name("opentelemetry-instrument")))
        self.process = subprocess.Popen(command, env=values, stdout=self.log, stderr=subprocess.STDOUT)
        self.ps = psutil.Process(self.process.pid)
        deadline = time.monotonic() + 2 * PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=PATIENCE):
                    return
            except OSError:
                assert self.process.poll() is None, self.output()
                assert time.monotonic() < deadline, self.output()
                time.sleep(0.1)

    def output(self) -> str:
        return Path(self.log.name).read_text()

    async def ask(
        self, on_chunk: Callable[[int], bool] | None = None, headers: Mapping[str, str] | None = None, **query: Any
    ) -> Answer:
        """One request. ``on_chunk(n)`` is called with each chunk's number;
        when it returns False the listener leaves.
        """
        answer = Answer(time.time_ns())
        url = f"ws://127.0.0.1:{self.port}/stream?{urlencode(query)}"
        async with websockets.connect(
            url, max_size=None, open_timeout=PATIENCE, additional_headers=dict(headers or {})
        ) as socket_:
            try:
                async for message in socket_:
                    if isinstance(message, bytes):
                        answer.first_audio = answer.first_audio or time.time_ns()
                        answer.audio += message
                        answer.chunks += 1
                        if on_chunk is not None and not on_chunk(answer.chunks):
                            break
                    else:
                        answer.logs.append(message)
            except websockets.ConnectionClosedError:
                pass
        answer.ended, answer.close_code = time.time_ns(), socket_.close_code
        return answer

    def speak(
        self, on_chunk: Callable[[int], bool] | None = None, headers: Mapping[str, str] | None = None, **query: Any
    ) -> tuple[Answer, Trace]:
        """One request and its trace."""
        before = set(self.traces())
        answer = asyncio.run(self.ask(on_chunk, headers, **query))
        (trace,) = self.wait_for_traces(len(before) + 1, but=before)
        return answer, trace

    def traces(self) -> dict[str, Trace]:
        """The traces that have come in whole, by id."""
        found = {}
        for key, spans in self.receiver.traces().items():
            if whole(spans):
                found[key] = Trace(spans)
        return found

    def wait_for_traces(self, count: int, but: set[str] | None = None) -> list[Trace]:
        deadline = time.monotonic() + PATIENCE
        while len(self.traces()) < count:
            assert time.monotonic() < deadline, f"{len(self.traces())} of {count} traces came; {self.output()[-3000:]}"
            time.sleep(0.05)
        return [trace for key, trace in self.traces().items() if key not in (but or set())]

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=PATIENCE) as response:
            return response.read().decode()

    def samples(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """Samples of one series name by its labels, the scope's left out."""
        found = {}
        for line in self.metrics().splitlines():
            match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if match:
                labels = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match.group(1) or "")
                found[frozenset(pair for pair in labels if not pair[0].startswith("otel_scope"))] = float(
                    match.group(2)
                )
        return found

    def total(self, name: str, **labels: str) -> float:
        """Sum of a series over all label sets that contain ``labels``."""
        return sum(value for key, value in self.samples(name).items() if set(labels.items()) <= key)

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        swallowed.read(self.output())
        self.log.close()


class Trace:
    """The spans of one request."""

    def __init__(self, spans: list[ReceivedSpan]) -> None:
        self.spans = spans
        self.by_id = {span.span_id: span for span in spans}
        self.root = self.named(ROOT)[0]
        self.server = next(s for s in spans if s.kind == SERVER_KIND)

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == name]

    def children(self, parent: ReceivedSpan, name: str | None = None) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.parent_id == parent.span_id and name in {None, span.name}]

    def durations(self, name: str) -> list[float]:
        """Milliseconds of every span of that name."""
        return [(span.end - span.start) / 1e6 for span in self.named(name)]


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Running]]:
    """Start services with environment variables; the same ones share a service. All end with the session."""
    running: dict[tuple[tuple[str, str], ...], Running] = {}

    def begin(*, fresh: bool = False, **environment: str) -> Running:
        key = tuple(sorted(environment.items()))
        if fresh or key not in running:
            service = Running(Receiver(), environment)
            everything.append(service)
            if fresh:
                return service
            running[key] = service
        return running[key]

    everything: list[Running] = []
    yield begin
    for service in everything:
        service.stop()
        service.receiver.close()


@pytest.fixture(scope="session")
def service(start: Callable[..., Running]) -> Running:
    """The healthy service, warm."""
    running = start()
    running.speak(text="warm up")
    return running
