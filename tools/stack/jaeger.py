"""Jaeger, all in one process and in memory: the trace store of the stack without Docker, where it is built."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tools import toolchain
from tools.ports import free_ports
from tools.stack.process import Process, Running
from tools.stack.traces import waterfall

TRACES_KEPT = 10_000


class Jaeger(Running):
    """A running Jaeger: ``endpoint`` takes OTLP/gRPC, ``url`` is its query API (built without its web interface).

    Args:
        folder: receives the configuration and the log.
        port: of the query API; a free one by default.

    Raises:
        FileNotFoundError: it is not built.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        program = str(toolchain.require("jaeger"))
        folder.mkdir(parents=True, exist_ok=True)
        otlp, query, inside, health = (f"127.0.0.1:{each}" for each in free_ports(4))
        query = f"127.0.0.1:{port}" if port else query
        self.endpoint, self.url = otlp, f"http://{query}"
        config: dict[str, Any] = {
            "service": {
                "extensions": ["jaeger_storage", "jaeger_query", "healthcheckv2"],
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
                "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
            },
            "extensions": {
                "healthcheckv2": {"use_v2": True, "http": {"endpoint": health}},
                "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": TRACES_KEPT}}}},
                "jaeger_query": {
                    "storage": {"traces": "memory"},
                    "http": {"endpoint": query},
                    "grpc": {"endpoint": inside},
                },
            },
            "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": otlp}}}},
            "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
        }
        (folder / "jaeger.yaml").write_text(json.dumps(config))  # JSON is YAML
        command = [program, "--config", str(folder / "jaeger.yaml")]
        self.process = Process("jaeger", command, folder, ready=f"http://{health}/status")

    def services(self) -> set[str]:
        """Names of the services whose spans it has."""
        return set(self._get("/api/services")["data"] or ())

    def search(
        self, service: str, operation: str, tags: dict[str, str], minimum: str = "0s", limit: int = 20
    ) -> list[str]:
        """Ids of traces with a span of that operation with those attributes that took at least ``minimum`` (such as
        100ms).
        """
        query = {"service": service, "operation": operation, "minDuration": minimum, "limit": str(limit)}
        return [each["traceID"] for each in self._get("/api/traces", tags=json.dumps(tags), **query)["data"] or ()]

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace as OTLP's JSON has them, the resource's attributes under ``resource``; empty for an
        unknown id.
        """
        try:
            parts = self._get(f"/api/v3/traces/{trace_id}")["result"]["resourceSpans"]
        except urllib.error.HTTPError as error:
            error.close()
            return []
        return [
            {**span, "resource": part["resource"]["attributes"]}
            for part in parts
            for scope in part["scopeSpans"]
            for span in scope["spans"]
        ]

    def waterfall(self, trace_id: str) -> str:
        """The trace as text."""
        spans = [
            Span(
                name=each["name"],
                span_id=bytes.fromhex(each["spanId"]),
                parent_span_id=bytes.fromhex(each.get("parentSpanId", "")),
                start_time_unix_nano=int(each["startTimeUnixNano"]),
                end_time_unix_nano=int(each["endTimeUnixNano"]),
            )
            for each in self.trace(trace_id)
        ]
        return waterfall(trace_id, sorted(spans, key=lambda span: span.start_time_unix_nano))

    def _get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)

    def stop(self) -> int:
        return self.process.stop()
