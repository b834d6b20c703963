"""A trace store in memory: OTLP/gRPC in, Tempo's by-id API and a plain waterfall out.

It stands where neither Tempo nor Jaeger has a binary: `make stack` follows an exemplar to its trace with it, and the
tests look at what left the Collector.
"""

from __future__ import annotations

import argparse
import html
import json
import signal
import threading
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from tools.otlp_grpc import GrpcReceiver
from tools.stack.process import Running


class TraceStore(GrpcReceiver, Running):
    """Keeps the most recent ``limit`` traces by id (32 hex digits); every request as it came only where ``keeps`` is
    set.

    Args:
        grpc_address: host:port for OTLP/gRPC; port 0 takes a free one.
        http_address: host:port for people and for Tempo's API; None for no HTTP.
        limit: traces kept.
    """

    def __init__(
        self, grpc_address: str = "127.0.0.1:0", http_address: tuple[str, int] | None = None, limit: int = 500
    ) -> None:
        self._limit = limit
        self._traces: OrderedDict[str, list[ResourceSpans]] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__(grpc_address)
        self.keeps = False
        self._http = _serve(self, http_address) if http_address else None
        self.url = f"http://{http_address[0]}:{self._http.server_port}" if http_address and self._http else ""

    def take(self, message: Any) -> None:
        super().take(message)
        with self._lock:
            for resource in message.resource_spans:
                self._add(resource)

    def _add(self, resource: ResourceSpans) -> None:
        split: dict[str, ResourceSpans] = {}
        for scope in resource.scope_spans:
            groups: dict[str, list[Span]] = {}
            for span in scope.spans:
                groups.setdefault(span.trace_id.hex(), []).append(span)
            for trace_id, spans in groups.items():
                part = split.setdefault(trace_id, ResourceSpans(resource=resource.resource))
                part.scope_spans.add(scope=scope.scope).spans.extend(spans)
        for trace_id, part in split.items():
            self._traces.setdefault(trace_id, []).append(part)
            self._traces.move_to_end(trace_id)
        while len(self._traces) > self._limit:
            self._traces.popitem(last=False)

    def ids(self) -> list[str]:
        """Trace ids, the least recently seen first."""
        with self._lock:
            return list(self._traces)

    def spans(self, trace_id: str) -> list[Span]:
        """The spans of one trace in order of their start; empty for an unknown id."""
        with self._lock:
            parts = list(self._traces.get(trace_id, ()))
        found = [span for part in parts for scope in part.scope_spans for span in scope.spans]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def as_json(self, trace_id: str) -> dict[str, Any] | None:
        """The trace as Tempo's /api/traces/ID gives it; None for an unknown id."""
        with self._lock:
            parts = list(self._traces.get(trace_id, ()))
        return {"batches": [MessageToDict(part) for part in parts]} if parts else None

    def waterfall(self, trace_id: str) -> str:
        """The trace as text."""
        return waterfall(trace_id, self.spans(trace_id))

    def stop(self) -> int:
        """End both servers."""
        super().stop()
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
        return 0


def waterfall(trace_id: str, spans: list[Span]) -> str:
    """Spans in order of their start as text: a line a span, indented, with its start and duration in milliseconds."""
    if not spans:
        return f"no trace {trace_id}"
    children: dict[bytes, list[Span]] = {}
    known = {span.span_id for span in spans}
    for span in spans:
        children.setdefault(span.parent_span_id if span.parent_span_id in known else b"", []).append(span)
    origin, lines = spans[0].start_time_unix_nano, [f"trace {trace_id}, {len(spans)} spans", ""]

    def walk(parent: bytes, depth: int) -> None:
        for span in children.get(parent, ()):
            start = (span.start_time_unix_nano - origin) / 1e6
            length = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
            failed = "  ERROR" if span.status.code == 2 else ""
            lines.append(f"{start:10.2f} ms {length:10.2f} ms  {'  ' * depth}{span.name}{failed}")
            walk(span.span_id, depth + 1)

    walk(b"", 0)
    return "\n".join(lines)


def _serve(store: TraceStore, address: tuple[str, int]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, _, trace_id = self.path.strip("/").rpartition("/")
            trace_id = trace_id.partition("?")[0].lower()
            if kind in {"api/traces", "api/v2/traces"}:
                found = store.as_json(trace_id)
                self._answer(200 if found else 404, "application/json", json.dumps(found or {}))
            elif kind == "trace":
                self._answer(
                    200 if store.spans(trace_id) else 404, "text/plain; charset=utf-8", store.waterfall(trace_id)
                )
            else:
                rows = "".join(
                    f'<li><a href="/trace/{each}">{html.escape(each)}</a></li>' for each in reversed(store.ids())
                )
                page = f"<!doctype html><title>Traces</title><h1>Traces, latest first</h1><ul>{rows}</ul>"
                self._answer(200, "text/html; charset=utf-8", page)

        def _answer(self, status: int, kind: str, body: str) -> None:
            data = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(address, Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="trace-store-http", daemon=True).start()
    return server


def main() -> None:
    """``python -m tools.stack.traces``: the store alone, for a container; ends at SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tools.stack.traces", description=__doc__)
    parser.add_argument("--otlp", default="127.0.0.1:4317", help="host:port of OTLP/gRPC")
    parser.add_argument("--http", default="127.0.0.1:3200", help="host:port of Tempo's by-id API and of the page")
    chosen = parser.parse_args()
    host, _, port = chosen.http.rpartition(":")
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with TraceStore(chosen.otlp, (host, int(port))):
        stopped.wait()


if __name__ == "__main__":
    main()
