"""Takes traces by OTLP over HTTP in this process, so that the demo shows what was really exported. Loopback only."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

MAX_BODY = 64 * 1024 * 1024
DECODERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


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
    status: int
    attributes: dict[str, object]


def attributes(pairs: Any) -> dict[str, Any]:
    """Key-value pairs of OTLP."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


def raw_spans(requests: Iterable[ExportTraceServiceRequest]) -> Iterator[Span]:
    """The spans of some exports, as they came."""
    for request in requests:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                yield from scope.spans


def read_spans(requests: Iterable[ExportTraceServiceRequest]) -> list[ReceivedSpan]:
    """The spans of some exports, in words, as they came."""
    return [
        ReceivedSpan(
            name=span.name, trace_id=span.trace_id.hex(), span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            start=span.start_time_unix_nano, end=span.end_time_unix_nano, kind=span.kind, status=span.status.code,
            attributes=attributes(span.attributes),
        )
        for span in raw_spans(requests)
    ]  # fmt: skip


def by_trace(spans: Iterable[ReceivedSpan]) -> dict[str, list[ReceivedSpan]]:
    """Spans by trace, each in order of start."""
    traces: dict[str, list[ReceivedSpan]] = {}
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        traces.setdefault(span.trace_id, []).append(span)
    return traces


class Server(ThreadingHTTPServer):
    """Listens on 127.0.0.1.

    Args:
        port: 0 takes a free one.
        answer: called with each POST and its body, decoded, on a thread of the connection's; returns the status.
    """

    daemon_threads = True

    def __init__(self, port: int, answer: Callable[[BaseHTTPRequestHandler, bytes], int]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer = answer

    def serve(self) -> None:
        """Serve on a thread, until ``shutdown()``."""
        serve = self.serve_forever
        threading.Thread(target=serve, kwargs={"poll_interval": 0.05}, name="otlp-receiver", daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed, or has given up."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if 0 < length <= MAX_BODY else b""
        decode = DECODERS.get(self.headers.get("Content-Encoding", ""), bytes)
        self.send_response(self.server.answer(self, decode(body)))
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet."""


class Receiver:
    """Keeps the traces that come; ``endpoint`` is what OTEL_EXPORTER_OTLP_ENDPOINT wants."""

    def __init__(self) -> None:
        self._requests: list[ExportTraceServiceRequest] = []
        self._changed = threading.Condition()
        self._server = Server(0, self._answer)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._server.serve()

    def _answer(self, _: BaseHTTPRequestHandler, body: bytes) -> int:
        with self._changed:
            self._requests.append(ExportTraceServiceRequest.FromString(body))
            self._changed.notify_all()
        return 200

    def traces(self) -> dict[str, list[ReceivedSpan]]:
        """The spans that have come, by trace."""
        return by_trace(read_spans(self._requests[:]))

    def wait_for(self, met: Callable[[], object], seconds: float) -> None:
        """Wait until ``met`` holds after some export, or for ``seconds``."""
        with self._changed:
            self._changed.wait_for(met, seconds)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
