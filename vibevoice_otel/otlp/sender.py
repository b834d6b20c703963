"""Encoded spans to the wire: a bounded queue and a thread of its own, beside the operator's batch processor.

It is registered with the tracer provider like any span processor, so the provider's force_flush and shutdown reach it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value
from opentelemetry.sdk.trace import SpanProcessor

from vibevoice_otel.otlp import wire
from vibevoice_otel.otlp.encode import Encoded
from vibevoice_otel.sdk.exporters import ByteExporter, EncodedRequest

logger = logging.getLogger(__name__)
#: Bytes that wait at most while a receiver is slow or away (about 100,000 spans); past it the oldest are dropped and counted.
MAX_QUEUE_BYTES = 16 * 1024 * 1024
#: A request's size: well below the 4 MiB that a gRPC receiver takes by default.
MAX_REQUEST_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Envelope:
    """The resource and the scope that all our spans share, as protobuf.

    Args:
        resource, resource_schema: ResourceSpans.resource and .schema_url, each a whole field.
        scope, scope_schema: ScopeSpans.scope and .schema_url, each a whole field.
    """

    resource: bytes
    resource_schema: bytes
    scope: bytes
    scope_schema: bytes

    def wrap(self, pieces: Sequence[Encoded]) -> EncodedRequest:
        """One ExportTraceServiceRequest of ``pieces``."""
        inner = len(self.scope) + sum(len(piece.payload) for piece in pieces) + len(self.scope_schema)
        scope_spans = b"\x12" + wire.varint(inner)
        outer = len(self.resource) + len(scope_spans) + inner + len(self.resource_schema)
        # Joined once: to copy a megabyte for each layer would cost more than all that went into it.
        parts = [
            b"\x0a" + wire.varint(outer),
            self.resource,
            scope_spans,
            self.scope,
            *(piece.payload for piece in pieces),
        ]
        request = b"".join([*parts, self.scope_schema, self.resource_schema])
        return EncodedRequest(request, sum(piece.count for piece in pieces))


class Sender(SpanProcessor):
    """Sends encoded spans through one exporter.

    Args:
        exporter: where to.
        interval: seconds between requests, unless MAX_REQUEST_BYTES have gathered before.
        on_drop: told (what, reason, count) of spans that are lost.
    """

    def __init__(
        self,
        exporter: ByteExporter,
        interval: float,
        on_drop: Callable[[str, str, int], None],
        *,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
    ) -> None:
        self._exporter = exporter
        self._interval = interval
        self._on_drop = on_drop
        self._max_queue_bytes = max_queue_bytes
        self._stopped = False
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """Empty, without a thread; after a fork what the parent has queued is the parent's to send."""
        self._lock = threading.Lock()  # guards the queue and its size
        self._sending = threading.Lock()  # one request at a time, so that a flush waits for the one under way
        self._queue: deque[tuple[Envelope, Encoded]] = deque()
        self._bytes = 0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def exporter(self) -> ByteExporter:
        return self._exporter

    def put(self, envelope: Envelope, pieces: Sequence[Encoded]) -> None:
        """Queue ``pieces``. Never blocks on the network; what does not fit pushes out the oldest, which is counted."""
        if self._stopped:
            self._on_drop("spans", "shutdown", sum(piece.count for piece in pieces))
            return
        lost = 0
        with self._lock:
            for piece in pieces:
                self._queue.append((envelope, piece))
                self._bytes += len(piece.payload)
            while self._bytes > self._max_queue_bytes and self._queue:
                _, oldest = self._queue.popleft()
                self._bytes -= len(oldest.payload)
                lost += oldest.count
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vibevoice-otel-sender", daemon=True)
                self._thread.start()
        if lost:
            self._on_drop("spans", "queue_full", lost)
        if self._bytes >= MAX_REQUEST_BYTES:
            self._wake.set()

    def _run(self) -> None:
        while not self._stopped:
            self._wake.wait(self._interval)
            self._wake.clear()
            self._send_all()

    def _send_all(self, deadline: float | None = None) -> bool:
        """Send what is queued; False when ``deadline`` (monotonic seconds) came first or a request failed."""
        good = True
        wait = -1 if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._sending.acquire(timeout=wait):
            return False
        try:
            while True:
                if deadline is not None and time.monotonic() >= deadline:
                    return not self._queue and good
                request = self._next()
                if request is None:
                    return good
                good = self._send(request) and good
        finally:
            self._sending.release()

    def _next(self) -> EncodedRequest | None:
        with self._lock:
            if not self._queue:
                return None
            envelope = self._queue[0][0]
            pieces: list[Encoded] = []
            size = 0
            while (
                self._queue
                and self._queue[0][0] is envelope
                and (not pieces or size + len(self._queue[0][1].payload) <= MAX_REQUEST_BYTES)
            ):
                piece = self._queue.popleft()[1]
                pieces.append(piece)
                size += len(piece.payload)
            self._bytes -= size
        return envelope.wrap(pieces)

    def _send(self, request: EncodedRequest) -> bool:
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            good = self._exporter.send(request)
        except Exception:
            logger.warning("%d spans could not be sent", len(request), exc_info=True)
            good = False
        finally:
            detach(token)
        if not good:
            self._on_drop("spans", "export_failed", len(request))
        return good

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is queued, and wait for what is under way; False when the time ran out or the receiver refused."""
        if self._stopped:
            return False
        return self._send_all(time.monotonic() + (timeout_millis if timeout_millis is not None else 30_000) / 1000)

    def shutdown(self, timeout: float = 30.0) -> None:
        """Send what is left, drop and count what could not be sent within ``timeout`` seconds. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._wake.set()
        self._send_all(time.monotonic() + timeout)
        with self._lock:
            lost = sum(piece.count for _, piece in self._queue)
            self._queue.clear()
            self._bytes = 0
        if lost:
            self._on_drop("spans", "shutdown", lost)
        self._exporter.shutdown()
