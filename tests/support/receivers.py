"""Receivers of OTLP on loopback ports, and exporters that end at one: what the fast path and the stock encoder both
talk to.
"""

from __future__ import annotations

import gzip
import http.server
import threading
import zlib
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from typing_extensions import Self


@dataclass
class Received:
    """Requests as they came, and the headers of each."""

    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def spans(self) -> list[Span]:
        return [s for r in self.requests for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans]


class HttpReceiver:
    """``with HttpReceiver() as receiver``. ``answers`` are status codes given in turn, then 200."""

    def __init__(self, *answers: int) -> None:
        self.received = received = Received()
        left = list(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                encoding = self.headers.get("Content-Encoding", "")
                body = (
                    gzip.decompress(body)
                    if encoding == "gzip"
                    else zlib.decompress(body)
                    if encoding == "deflate"
                    else body
                )
                code = left.pop(0) if left else 200
                received.headers.append(
                    {k.lower(): v for k, v in self.headers.items()} | {"path": self.path, "answer": str(code)}
                )
                if code == 200:
                    received.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class GrpcReceiver(TraceServiceServicer):
    """``with GrpcReceiver() as receiver``. ``failures`` requests are first answered UNAVAILABLE."""

    def __init__(self, failures: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.received = Received()
        self._failures = failures
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(self, self._server)
        port = (
            self._server.add_secure_port("localhost:0", credentials)
            if credentials
            else self._server.add_insecure_port("127.0.0.1:0")
        )
        self.endpoint = f"localhost:{port}" if credentials else f"http://127.0.0.1:{port}"

    def Export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        self.received.headers.append(dict(context.invocation_metadata()))
        if self._failures:
            self._failures -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "later")
        self.received.requests.append(request)
        return ExportTraceServiceResponse()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait(5)
