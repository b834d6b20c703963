"""OTLP in this process: tools and tests ask what has come, and have a receiver refuse, be late, hang up or speak TLS.
Loopback only.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any, TypeVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from typing_extensions import Self

from vibevoice_otel.commands.demo.receiver import ReceivedSpan, Server, by_trace, raw_spans, read_spans

KINDS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}
Message = TypeVar("Message")


class Received:
    """What has come, by whatever protocol: whole requests, in order, and the headers of each, refused ones included.

    ``keeps`` false: what comes is forgotten (an hour of it would fill this process).
    """

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.keeps = True
        self.changed = threading.Condition()

    def take(self, message: Any) -> None:
        with self.changed:
            if self.keeps:
                self.messages.append(message)
            self.changed.notify_all()

    def came(self, headers: Mapping[str, str]) -> None:
        if self.keeps:
            self.headers.append(dict(headers))

    def of(self, kind: type[Message]) -> list[Message]:
        """The requests of one kind."""
        with self.changed:
            return [each for each in self.messages if isinstance(each, kind)]

    def spans(self, name: str | None = None) -> list[Span]:
        """The spans that have come, as they came; of one name where it is given."""
        return [span for span in raw_spans(self.of(ExportTraceServiceRequest)) if name in {None, span.name}]

    def read_spans(self) -> list[ReceivedSpan]:
        """The spans that have come, in words."""
        return read_spans(self.of(ExportTraceServiceRequest))

    def traces(self) -> dict[str, list[ReceivedSpan]]:
        """Spans by trace, each in order of start."""
        return by_trace(self.read_spans())

    def wait_for(self, met: Callable[[], object], seconds: float) -> bool:
        """Wait until ``met`` holds after some export; False after ``seconds``."""
        with self.changed:
            return bool(self.changed.wait_for(met, seconds))


class Receiver(Received):
    """Takes OTLP over HTTP on 127.0.0.1; ``endpoint`` is what OTEL_EXPORTER_OTLP_ENDPOINT wants.

    A request whose sender has hung up before the answer is not taken, so that what came and what its sender counts as
    lost add up.

    Args:
        port: 0 takes a free one, which it keeps when it is closed and opened again.
        answers: status codes given in turn, before ``status``.
        tls: what it serves TLS with.

    Attributes:
        status: how it answers; only what is answered by 200 is taken.
        delay: seconds before an answer.
    """

    def __init__(self, port: int = 0, answers: Sequence[int] = (), tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.port = port
        self.status, self.delay = 200, 0.0
        self._answers, self._tls = list(answers), tls
        self._server: Server | None = None
        self.open()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Listen, at the port of before."""
        self._server = Server(self.port, self._answer)
        self.port = self._server.server_port
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._server.serve()

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> int:
        status = self._answers.pop(0) if self._answers else self.status
        said = {name.lower(): value for name, value in request.headers.items()}
        self.came(said | {"path": request.path, "answer": str(status)})
        time.sleep(self.delay)
        if status == 200 and not _hung_up(request.connection):
            self.take(KINDS[request.path].FromString(body))
        return status

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _hung_up(connection: socket.socket) -> bool:
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable) and not connection.recv(1, socket.MSG_PEEK)
