"""Encoded spans to the wire: a bounded queue and the thread that sends it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from opentelemetry.instrumentation.utils import suppress_instrumentation

from vibevoice_otel import failures, forking
from vibevoice_otel.otlp.encode import Encoded
from vibevoice_otel.otlp.request import ByteExporter, EncodedRequest, Envelope

#: Bytes that wait at most while a receiver is slow or away (about 100,000 spans); past it the oldest are dropped and
#: counted.
MAX_QUEUE_BYTES = 16 * 1024 * 1024
#: A request's size: well below the 4 MiB that a gRPC receiver takes by default.
MAX_REQUEST_BYTES = 1024 * 1024


class Sender:
    """Sends encoded spans through one exporter.

    Args:
        exporter: where to.
        interval: seconds between requests, unless MAX_REQUEST_BYTES have gathered before.
        on_drop: told (what, reason, count) of spans that are lost.
        deliver: takes a request that the exporter raised on, with the exception; True when its spans go another way.
    """

    def __init__(
        self,
        exporter: ByteExporter,
        interval: float,
        on_drop: Callable[[str, str, int], None],
        deliver: Callable[[EncodedRequest, Exception], bool] = lambda _request, _error: False,
        *,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
    ) -> None:
        self.exporter = exporter
        self._interval = interval
        self._on_drop = on_drop
        self._deliver = deliver
        self._max_queue_bytes = max_queue_bytes
        self._stopped = False
        forking.begin(self._reset)

    def _reset(self) -> None:
        """Empty, without a thread; after a fork what the parent has queued is the parent's to send."""
        self._lock = threading.Lock()  # guards the queue and its size
        self._sending = threading.Lock()  # one request at a time, so that a flush waits for the one under way
        self._queue: deque[tuple[Envelope, Encoded]] = deque()
        self._bytes = 0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

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
                # Where the system refuses one the queue waits, bounded, and the next pieces ask again.
                self._thread = failures.start_thread("sender", self._run)
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
        try:
            with suppress_instrumentation():
                good = self.exporter.send(request)
        except Exception as error:  # noqa: BLE001 - the thread goes on sending whatever an exporter does
            good = self._deliver(request, error)
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
        self.exporter.shutdown()
