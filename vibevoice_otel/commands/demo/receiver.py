"""An OTLP/HTTP receiver in this process: the demo shows what was really exported, the tests ask what has come. Loopback
only.
"""

from __future__ import annotations

import gzip
import select
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from typing_extensions import Self

MAX_BODY = 64 * 1024 * 1024
KINDS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}
DECODERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
ERROR = 2  # opentelemetry.proto.trace.v1.Status.STATUS_CODE_ERROR
Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span as it came over the wire; times in nanoseconds since 1970, ids as hexadecimal."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    kind: int
    status: int = 0
    status_text: str = ""
    attributes: dict[str, object] = field(default_factory=dict)
    scope: str = ""
    events: tuple[str, ...] = ()

    @property
    def error(self) -> bool:
        return self.status == ERROR


def attributes(pairs: Any) -> dict[str, Any]:
    """Key-value pairs of OTLP."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


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

    def _scoped(self) -> list[tuple[str, Span]]:
        return [
            (scope.scope.name, span)
            for message in self.of(ExportTraceServiceRequest)
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def spans(self, name: str | None = None) -> list[Span]:
        """The spans that have come, as they came; of one name where it is given."""
        return [span for _, span in self._scoped() if name in {None, span.name}]

    def read_spans(self) -> list[ReceivedSpan]:
        """The spans that have come, in words."""
        return [
            ReceivedSpan(
                name=span.name, trace_id=span.trace_id.hex(), span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                start=span.start_time_unix_nano, end=span.end_time_unix_nano, kind=span.kind, status=span.status.code,
                status_text=span.status.message, attributes=attributes(span.attributes), scope=scope,
                events=tuple(event.name for event in span.events),
            )
            for scope, span in self._scoped()
        ]  # fmt: skip

    def traces(self) -> dict[str, list[ReceivedSpan]]:
        """Spans by trace, each in order of start."""
        traces: dict[str, list[ReceivedSpan]] = {}
        for span in sorted(self.read_spans(), key=lambda s: (s.start, -s.end)):
            traces.setdefault(span.trace_id, []).append(span)
        return traces

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
        self._server: ThreadingHTTPServer | None = None
        self.open()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Listen, at the port of before."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if 0 < length <= MAX_BODY else b""
                status = receiver._answers.pop(0) if receiver._answers else receiver.status
                said = {name.lower(): value for name, value in self.headers.items()}
                receiver.came(said | {"path": self.path, "answer": str(status)})
                time.sleep(receiver.delay)
                if status == 200 and not self._hung_up():
                    decode = DECODERS.get(said.get("content-encoding", ""), bytes)
                    receiver.take(KINDS[self.path].FromString(decode(body)))
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _hung_up(self) -> bool:
                readable, _, _ = select.select([self.connection], [], [], 0)
                return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that was killed, or has given up."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        serve = self._server.serve_forever
        threading.Thread(target=serve, kwargs={"poll_interval": 0.05}, name="otlp-receiver", daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
