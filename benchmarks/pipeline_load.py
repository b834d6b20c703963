"""What the Collector is loaded with, and what stands behind it: traces as a service of ours sends them, and a place
that counts spans.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass

import grpc
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from benchmarks.replay import Model, speak
from benchmarks.telemetry import observed
from tools.stack.collector import Collector
from vibevoice_otel.sampling.share import in_share

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
TRACES_A_REQUEST = 6  # half a MiB, as the shipped agent batches them
FRAMES = 75  # 10 seconds of audio in each trace


class Downstream:
    """Where Tempo, or the next tier, would be: counts bytes and spans."""

    def __init__(self) -> None:
        self.bytes = self.spans = 0
        self._lock = threading.Lock()
        handler = grpc.method_handlers_generic_handler(
            SERVICE, {"Export": grpc.unary_unary_rpc_method_handler(self._export)}
        )
        self._server = grpc.server(
            futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)]
        )
        self._server.add_generic_rpc_handlers((handler,))
        # Two addresses of one counter: the load balancer has two gateways to divide its traces between.
        ports = [self._server.add_insecure_port("127.0.0.1:0") for _ in range(2)]
        self.endpoint = f"127.0.0.1:{ports[0]}"
        self.endpoints = json.dumps([f"127.0.0.1:{port}" for port in ports])
        self._server.start()

    def _export(self, body: bytes, _context: grpc.ServicerContext) -> bytes:
        spans = _count(body)
        with self._lock:
            self.bytes += len(body)
            self.spans += spans
        return bytes(ExportTraceServiceResponse().SerializeToString())

    def wait(self, expected: int, quiet: float) -> None:
        """Until ``expected`` spans have arrived, or none for ``quiet`` seconds."""
        seen, since = self.spans, time.monotonic()
        while seen < expected and time.monotonic() - since < quiet:
            time.sleep(0.1)
            if self.spans != seen:
                seen, since = self.spans, time.monotonic()

    def stop(self) -> None:
        self._server.stop(0).wait(5)


def _count(body: bytes) -> int:
    return sum(len(s.spans) for r in ExportTraceServiceRequest.FromString(body).resource_spans for s in r.scope_spans)


@dataclass(frozen=True)
class Trace:
    """One trace as it was exported, to be sent again and again under fresh ids: a tail sampler remembers those that it
    has judged.
    """

    id: bytes
    parts: tuple[bytes, ...]
    counts: tuple[int, ...]

    @property
    def spans(self) -> int:
        return sum(self.counts)


def traces(wanted: int) -> list[Trace]:
    stack, model = observed(), Model.observed()
    made = []
    for _ in range(wanted):
        stack.sink.keep = []
        speak(stack.recorder, model, FRAMES)
        stack.flush()
        parts = tuple(stack.sink.keep)
        trace_id = ExportTraceServiceRequest.FromString(parts[0]).resource_spans[0].scope_spans[0].spans[0].trace_id
        trace = Trace(trace_id, parts, tuple(_count(part) for part in parts))
        assert sum(part.count(trace_id) for part in parts) == trace.spans, (
            "an id is rewritten in every span or the trace is split"
        )
        made.append(trace)
    stack.shutdown()
    return made


@dataclass
class Sent:
    """What became of what was sent: ``due`` spans of the ``accepted`` ones must come out at the other end."""

    accepted: int = 0
    refused: int = 0
    due: int = 0
    bytes: int = 0


class Sender:
    """Sends traces at a rate, one request at a time, and keeps the accounts.

    Args:
        collector: its receiver.
        payload: traces to choose from.
        share: of the traces, decided by their ids, that the configuration promises to keep.
        batched: as another Collector sends (gRPC, gzip, several traces a request), not as a service does (HTTP, a
            request an export).
    """

    def __init__(self, collector: Collector, payload: list[Trace], share: float, *, batched: bool) -> None:
        self.total = Sent()
        self._payload, self._share, self._batched = payload, share, batched
        self._ids = random.Random(1)
        self._number = 0
        self._post = _grpc(collector) if batched else _http(collector)

    def load(self, rate: int, seconds: float) -> None:
        """At ``rate`` spans a second; less where the answers do not come as fast."""
        began, sent = time.monotonic(), 0
        # A Collector's batch goes out after a second at the latest.
        traces_a_request = min(TRACES_A_REQUEST, max(1, rate // self._payload[0].spans)) if self._batched else 1
        while time.monotonic() - began < seconds:
            for body, spans, due in self._requests(traces_a_request):
                sent += spans
                if self._post(body):
                    self.total.accepted += spans
                    self.total.due += due
                    self.total.bytes += len(body)
                else:
                    self.total.refused += spans
            ahead = sent / rate - (time.monotonic() - began)
            if ahead > 0:
                time.sleep(ahead)

    def _requests(self, count: int) -> Iterator[tuple[bytes, int, int]]:
        """Requests of ``count`` whole traces: body, spans, and how many of these are due."""
        joined, all_spans, all_due = [], 0, 0
        for _ in range(count):
            trace = self._payload[self._number % len(self._payload)]
            self._number += 1
            fresh = self._ids.getrandbits(128)
            kept = in_share(fresh, self._share)
            for part, spans in zip(trace.parts, trace.counts, strict=True):
                body = part.replace(trace.id, fresh.to_bytes(16, "big"))
                if self._batched:
                    joined.append(body)
                else:
                    yield body, spans, spans if kept else 0
            all_spans += trace.spans
            all_due += trace.spans if kept else 0
        if self._batched:
            yield b"".join(joined), all_spans, all_due  # concatenated protobuf messages are one whose lists are joined


def _http(collector: Collector) -> Callable[[bytes], bool]:
    session = requests.Session()
    session.trust_env = False
    url, headers = f"http://{collector.http}/v1/traces", {"Content-Type": "application/x-protobuf"}
    return lambda body: session.post(url, body, headers=headers, timeout=30).status_code == 200


def _grpc(collector: Collector) -> Callable[[bytes], bool]:
    export = grpc.insecure_channel(collector.grpc).unary_unary(f"/{SERVICE}/Export")

    def post(body: bytes) -> bool:
        try:
            export(body, timeout=30, compression=grpc.Compression.Gzip)
        except grpc.RpcError:
            return False
        return True

    return post
