"""Pipeline: the shipped agent configuration in the real Collector, on one core: spans a second without loss, CPU a span, memory."""

from __future__ import annotations

import gzip
import tempfile
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import psutil
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

from benchmarks import harness
from benchmarks.replay import STEPS, Model, speak
from benchmarks.telemetry import observed
from tools.stack.collector import Collector

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
RATES = (2_000, 5_000, 10_000, 20_000, 40_000)
FRAMES = 75  # 10 seconds of audio in each trace


class Downstream:
    """Where Tempo would be: counts bytes and spans."""

    def __init__(self) -> None:
        self.bytes = self.spans = 0
        self._lock = threading.Lock()
        handler = grpc.method_handlers_generic_handler(
            "opentelemetry.proto.collector.trace.v1.TraceService",
            {"Export": grpc.unary_unary_rpc_method_handler(self._export)},
        )
        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)])
        self._server.add_generic_rpc_handlers((handler,))
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _export(self, body: bytes, _context: grpc.ServicerContext) -> bytes:
        spans = count(body)
        with self._lock:
            self.bytes += len(body)
            self.spans += spans
        return ExportTraceServiceResponse().SerializeToString()

    def stop(self) -> None:
        self._server.stop(0).wait(5)


def count(body: bytes) -> int:
    return sum(len(s.spans) for r in ExportTraceServiceRequest.FromString(body).resource_spans for s in r.scope_spans)


def bodies(wanted: int) -> list[tuple[bytes, int]]:
    """Requests as a service of ours sends them, with the number of spans in each."""
    stack, model = observed(), Model.observed()
    stack.sink.keep = []
    for _ in range(wanted):
        speak(stack.recorder, model, FRAMES)
        stack.flush()
    kept = stack.sink.keep
    stack.shutdown()
    return [(body, count(body)) for body in kept]


def load(collector: Collector, rate: int, seconds: float, payload: list[tuple[bytes, int]]) -> tuple[int, int, int]:
    """Send at ``rate`` spans a second; returns spans sent, spans refused, bytes sent."""
    session = requests.Session()
    session.trust_env = False
    sent = refused = size = 0
    began = time.monotonic()
    number = 0
    while time.monotonic() - began < seconds:
        body, spans = payload[number % len(payload)]
        number += 1
        answer = session.post(f"http://{collector.http}/v1/traces", body, headers={"Content-Type": "application/x-protobuf"}, timeout=30)
        if answer.status_code == 200:
            sent += spans
            size += len(body)
        else:
            refused += spans
        ahead = (sent + refused) / rate - (time.monotonic() - began)
        if ahead > 0:
            time.sleep(ahead)
    return sent, refused, size


def measure(folder: Path, rate: int, seconds: float, payload: list[tuple[bytes, int]]) -> dict[str, Any]:
    downstream = Downstream()
    environment = {"GOMAXPROCS": "1", "COLLECTOR_LOG_LEVEL": "error"}
    with Collector("agent", folder / str(rate), downstream.endpoint, environment) as collector:
        process = psutil.Process(collector.process.pid)
        load(collector, rate, min(2.0, seconds), payload)  # warm-up
        _settle(downstream)
        before, spans_before, bytes_before = process.cpu_times(), downstream.spans, downstream.bytes
        began = time.monotonic()
        sent, refused, size = load(collector, rate, seconds, payload)
        passed = time.monotonic() - began
        memory = process.memory_info().rss
        _settle(downstream)
        after = process.cpu_times()
    arrived, out = downstream.spans - spans_before, downstream.bytes - bytes_before
    downstream.stop()
    cpu = after.user + after.system - before.user - before.system
    return {"rate": sent / passed, "lost": sent - arrived, "refused": refused, "us": cpu / max(1, sent) * 1e6, "core": cpu / passed,
            "mib": memory / 2**20, "in": size / max(1, sent), "out": out / max(1, arrived)}  # fmt: skip


def _settle(downstream: Downstream) -> None:
    """Wait until nothing has arrived for two flush intervals."""
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < 2.5:
        if downstream.spans != seen:
            seen, since = downstream.spans, time.monotonic()
        time.sleep(0.1)


def main() -> None:
    options = harness.arguments(__doc__, seconds=10)
    payload = bodies(2 if options.quick else 20)
    with tempfile.TemporaryDirectory() as folder:
        found = [(rate, measure(Path(folder), rate, float(options.seconds), payload)) for rate in (RATES[:1] if options.quick else RATES)]
    rows: list[list[str | float | None]] = [
        [f"{rate:,} spans/s wanted", f["rate"], f["us"], f["core"] * 100, f["mib"], f["lost"], f["refused"], f["in"], f["out"]]
        for rate, f in found
    ]
    sound = [f for _, f in found if not f["lost"] and not f["refused"]]
    fastest = max(sound, key=lambda f: f["rate"], default=None)
    dearest = fastest["us"] if fastest else float("inf")
    spans = sum(n for _, n in payload)
    steps = FRAMES * STEPS * (2 if options.quick else 20)
    packed = sum(len(gzip.compress(body)) for body, _ in payload)
    plain = sum(len(body) for body, _ in payload)
    speed = fastest["rate"] if fastest else 0.0
    goal = harness.Goal("whole agent config under 10 us a span", dearest < 10, f"{dearest:.1f} us at {speed:,.0f} spans/s")
    note = (
        f"A trace of 10 s has {spans / steps * FRAMES * STEPS:.0f} spans for {FRAMES * STEPS} steps: "
        f"{plain / steps:.0f} bytes a step on the wire, {packed / steps:.0f} with gzip."
    )
    harness.Report(
        "pipeline", "The Collector (collector/agent.yaml, GOMAXPROCS=1, file-backed queue) at a rate of spans", "",
        ["load", "spans/s", "CPU us/span", "CPU % of a core", "RSS MiB", "lost", "refused", "bytes/span in", "bytes/span out"], rows,
        [goal],
        notes=[note],
    ).write(options.out)  # fmt: skip


if __name__ == "__main__":
    main()
