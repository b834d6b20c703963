"""An OTLP/HTTP receiver on a loopback port that keeps what it was sent: the tests' Collector."""

from __future__ import annotations

import gzip
import http.server
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class ReceivedSpan:
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    kind: int
    status: int
    status_text: str
    attributes: dict[str, Any]
    scope: str
    events: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """The newest data point of one attribute set: a sum's or gauge's value, or a histogram's count and sum."""

    attributes: dict[str, Any]
    value: float = 0.0
    count: int = 0
    sum: float = 0.0
    minimum: float | None = None
    maximum: float | None = None


@dataclass
class Received:
    spans: list[ReceivedSpan] = field(default_factory=list)
    metrics: dict[str, list[Point]] = field(default_factory=dict)
    exports: int = 0


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


def _points(metric: Any) -> Iterator[Point]:
    kind = metric.WhichOneof("data")
    for point in getattr(metric, kind).data_points:
        attributes = _attributes(point.attributes)
        if kind == "histogram":
            yield Point(
                attributes,
                count=point.count,
                sum=point.sum,
                minimum=point.min if point.HasField("min") else None,
                maximum=point.max if point.HasField("max") else None,
            )
        else:
            yield Point(attributes, value=float(getattr(point, point.WhichOneof("value"))))


class Sink:
    """``with Sink() as sink``: ``sink.endpoint`` takes OTLP, ``sink.spans(trace_id)`` and ``sink.metric(name)`` answer."""

    def __init__(self) -> None:
        self._received = Received()
        self._changed = threading.Condition()
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                sink._take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing: the tests' output is theirs."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def _take(self, path: str, body: bytes) -> None:
        with self._changed:
            if path.endswith("/traces"):
                self._take_traces(ExportTraceServiceRequest.FromString(body))
            elif path.endswith("/metrics"):
                self._take_metrics(ExportMetricsServiceRequest.FromString(body))
            else:
                ExportLogsServiceRequest.FromString(body)
            self._received.exports += 1
            self._changed.notify_all()

    def _take_traces(self, request: Any) -> None:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self._received.spans.append(
                        ReceivedSpan(
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            span.kind,
                            span.status.code,
                            span.status.message,
                            _attributes(span.attributes),
                            scope.scope.name,
                            tuple(event.name for event in span.events),
                        )
                    )

    def _take_metrics(self, request: Any) -> None:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    self._received.metrics[metric.name] = list(_points(metric))

    def spans(self, trace_id: str | None = None) -> list[ReceivedSpan]:
        with self._changed:
            return [span for span in self._received.spans if trace_id in (None, span.trace_id)]

    def metric(self, name: str) -> list[Point]:
        with self._changed:
            return list(self._received.metrics.get(name, ()))

    def holds(self, word: str) -> bool:
        """Whether ``word`` stands anywhere in what came, in whatever case."""
        with self._changed:
            return word.lower() in repr(self._received).lower()

    def wait(self, met: Callable[[], bool], seconds: float = 20.0) -> None:
        """Return once ``met()`` holds after some export; raise TimeoutError if it does not in time."""
        until = time.monotonic() + seconds
        with self._changed:
            while not met():
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    if met():
                        return
                    raise TimeoutError(
                        f"not within {seconds} s; spans seen: {sorted({s.name for s in self._received.spans})}"
                    )
