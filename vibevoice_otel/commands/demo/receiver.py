"""An OTLP/HTTP receiver of traces in this process, so that the demo shows what was really exported. Loopback only."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

MAX_BODY = 64 * 1024 * 1024


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
    error: bool
    attributes: dict[str, object] = field(default_factory=dict)


class Receiver:
    """Listens on 127.0.0.1; ``endpoint`` is what OTEL_EXPORTER_OTLP_ENDPOINT wants."""

    def __init__(self, port: int = 0) -> None:
        self._spans: list[ReceivedSpan] = []
        self._arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if 0 < length <= MAX_BODY else b""
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/traces":
                    receiver._take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="otlp-receiver", daemon=True)
        self._thread.start()

    def _take(self, request: ExportTraceServiceRequest) -> None:
        spans = [
            ReceivedSpan(
                name=span.name, trace_id=span.trace_id.hex(), span_id=span.span_id.hex(), parent_id=span.parent_span_id.hex(),
                start=span.start_time_unix_nano, end=span.end_time_unix_nano, kind=span.kind, error=span.status.code == 2,
                attributes={pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in span.attributes},
            )
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]  # fmt: skip
        with self._arrived:
            self._spans.extend(spans)
            self._arrived.notify_all()

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All that has arrived."""
        with self._arrived:
            return list(self._spans)

    def traces(self) -> dict[str, list[ReceivedSpan]]:
        """Spans by trace, each in order of start."""
        traces: dict[str, list[ReceivedSpan]] = {}
        for span in sorted(self.spans, key=lambda s: (s.start, -s.end)):
            traces.setdefault(span.trace_id, []).append(span)
        return traces

    def wait_for(self, name: str, count: int, timeout: float) -> bool:
        """Wait until ``count`` spans called ``name`` have arrived; False after ``timeout`` seconds."""
        with self._arrived:
            return self._arrived.wait_for(lambda: sum(span.name == name for span in self._spans) >= count, timeout)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
