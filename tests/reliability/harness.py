"""A service in a process of its own, under the launcher, and an OTLP receiver that can be slow, refuse, or go away and
return.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import psutil
import websockets
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from tests.support.swallowed import swallowed
from tools.otlp import Receiver
from tools.ports import free_port
from vibevoice_otel.commands.demo.receiver import attributes

HERE = Path(__file__).parent
ROOT = "vibevoice.synthesize"


class Sink(Receiver):
    """What has come, as the tests ask for it."""

    def __init__(self) -> None:
        # Of our own: one of the system's is any connection's while the receiver is away.
        super().__init__(free_port())

    def roots(self) -> Counter[str]:
        """How many requests' spans have come, by status, and by error.type where there is one."""
        found: Counter[str] = Counter()
        for span in self.spans(ROOT):
            values = attributes(span.attributes)
            found["/".join(filter(None, (values.get("vibevoice.status"), values.get("error.type"))))] += 1
        return found

    def series(self, name: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """The last value of each series of a metric (a histogram's count), by service.instance.id and attributes."""
        found = {}
        for message in self.of(ExportMetricsServiceRequest):
            for resource in message.resource_metrics:
                values = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name != name:
                            continue
                        kind = getattr(metric, metric.WhichOneof("data"))
                        for point in kind.data_points:
                            key = frozenset((pair.key, pair.value.string_value) for pair in point.attributes)
                            value = point.count if hasattr(point, "count") else point.as_int or point.as_double
                            found[values.get("service.instance.id", ""), key] = float(value)
        return found

    def total(self, name: str, **attributes: str) -> float:
        return sum(value for (_, key), value in self.series(name).items() if set(attributes.items()) <= key)

    def log_records(self) -> list[LogRecord]:
        return [
            record
            for message in self.of(ExportLogsServiceRequest)
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def all_text(self) -> str:
        """Everything that came, as text, for a search."""
        with self.changed:
            return "\n".join(str(each) for each in self.messages)


#: Seconds in which a service does what it is to do, on a busy machine too; the longest wait, and no measure of it.
PATIENCE = 60.0


def wait_for(met: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether ``met`` came true in time."""
    until = time.monotonic() + seconds
    while not met():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@dataclass
class Heard:
    """What a listener had of a request."""

    chunks: int = 0
    first: float | None = None  # seconds from the call
    close_code: int | None = None


@dataclass
class Service:
    """The speaking service under ``opentelemetry-instrument``."""

    sink: Sink
    environment: dict[str, str] = field(default_factory=dict)
    command: Sequence[str] = ()
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.metrics_port = free_port()
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        launcher = (sys.executable, "-c", "from opentelemetry.instrumentation.auto_instrumentation import run; run()")
        command = self.command or (sys.executable, "-m", "uvicorn", "speaker:app", "--port", str(self.port))
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VIBEVOICE_"))}
        environment = {
            **clean, "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": self.sink.endpoint,
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(self.metrics_port), "OTEL_SERVICE_NAME": "speaker",
            "VIBEVOICE_OTEL_ROUTES": "/stream,/v2/stream",  # named, for this program loads no model's code
            "OTEL_BSP_SCHEDULE_DELAY": "300", "OTEL_METRIC_EXPORT_INTERVAL": "500", "OMP_NUM_THREADS": "1",
            **self.environment,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [*launcher, *command], env=environment, cwd=HERE, stdin=subprocess.DEVNULL, stdout=self._log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log
            try:
                self.get("/healthz")
            except OSError:
                return False
            return True

        assert wait_for(ready, 2 * PATIENCE), self.log

    def get(self, path: str, port: int | None = None) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port or self.port}{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def post(self, path: str, body: str) -> int:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", body.encode(), timeout=PATIENCE
            ) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    async def listen(
        self,
        *,
        until: int | None = None,
        headers: dict[str, str] | None = None,
        heard: Heard | None = None,
        **query: object,
    ) -> Heard:
        """One request; with ``until`` the listener leaves after so many chunks. ``heard`` grows as it goes on."""
        heard, began = heard or Heard(), time.perf_counter()
        url = f"ws://127.0.0.1:{self.port}/stream?{urlencode({'text': 'hello', **query})}"
        try:
            async with websockets.connect(url, additional_headers=headers or {}, open_timeout=PATIENCE) as connection:
                try:
                    async for message in connection:
                        if isinstance(message, bytes):
                            heard.first = heard.first or time.perf_counter() - began
                            heard.chunks += 1
                            if until is not None and heard.chunks >= until:
                                break
                finally:
                    heard.close_code = connection.close_code
        except (websockets.WebSocketException, OSError):
            pass
        return heard

    async def speaking(self, count: int, *, after: int = 1, **query: object) -> list[asyncio.Task[Heard]]:
        """``count`` requests that are open and of each of which ``after`` chunks have been heard."""
        heard = [Heard() for _ in range(count)]
        tasks = [asyncio.create_task(self.listen(heard=each, **query)) for each in heard]  # type: ignore[arg-type]
        while any(each.chunks < after for each in heard):
            assert not any(task.done() for task in tasks), self.log
            await asyncio.sleep(0.01)
        return tasks

    def speak(self, count: int = 1, together: int = 8, **query: object) -> list[Heard]:
        """``count`` requests, ``together`` at a time."""

        async def all_of_them() -> list[Heard]:
            turn = asyncio.Semaphore(together)

            async def one() -> Heard:
                async with turn:
                    return await self.listen(**query)  # type: ignore[arg-type]

            return await asyncio.gather(*(one() for _ in range(count)))

        return asyncio.run(all_of_them())

    def wedge(self, seconds: float, threads: int) -> None:
        """Have as many worker threads of the event loop's pool hang; returns when all have begun."""

        def hang() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):  # the service ends before it answers
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/wedge?seconds={seconds}", timeout=seconds)

        for _ in range(threads):
            threading.Thread(target=hang, daemon=True).start()
        pool = min(32, (os.cpu_count() or 1) + 4)  # as concurrent.futures sizes it

        def hanging() -> bool:
            return int(self.get("/wedged")) >= pool

        assert wait_for(hanging), self.log

    def metrics(self) -> str:
        return self.get("/metrics", self.metrics_port)

    def scraped(self, name: str) -> float:
        """Sum of a series on the metrics page."""
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in self.metrics().splitlines() if re.match(rf"{name}[{{ ]", line)
        )

    def family(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def stop(self, how: int = signal.SIGTERM, seconds: float = 30.0) -> float:
        """Send ``how``; returns the seconds until the process had ended."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(seconds)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        return time.monotonic() - began

    def close(self) -> None:
        self.stop(signal.SIGKILL)
        swallowed.read(self.log)
        self._log.close()
