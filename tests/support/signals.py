"""Providers of all three signals with exporters in memory, and requests through an application's own entry as a server
makes them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tests.support.metrics import points
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.settings import Settings

App = Callable[..., Awaitable[None]]
SERVER_LOG = "uvicorn.error"


@dataclass
class Signals:
    """``with signals() as told``: what leaves the process."""

    spans: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    logs: InMemoryLogRecordExporter = field(default_factory=InMemoryLogRecordExporter)
    flush: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self.tracers, self.meters, self.loggers = TracerProvider(), MeterProvider([self.reader]), LoggerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.loggers.add_log_record_processor(SimpleLogRecordProcessor(self.logs))

    def shutdown(self) -> None:
        for provider in (self.tracers, self.meters, self.loggers):
            provider.shutdown()

    def finished(self, name: str | None = None) -> list[ReadableSpan]:
        return [span for span in self.spans.get_finished_spans() if name in {None, span.name}]

    def attributes(self, name: str = "vibevoice.synthesize") -> list[dict[str, Any]]:
        """The attributes of each finished span of this name, without ``vibevoice.``,
        in the order of their beginning.
        """
        self.flush()
        found = sorted(self.finished(name), key=lambda span: span.start_time or 0)
        return [
            {key.removeprefix("vibevoice."): value for key, value in (span.attributes or {}).items()} for span in found
        ]

    def counted(self, name: str, label: str) -> dict[str, float]:
        """What a counter or a histogram has counted, by one attribute."""
        self.flush()
        found: dict[str, float] = {}
        for point in self.points(name):
            value = point.count if hasattr(point, "count") else point.value
            if value:
                key = str(point.attributes[label])
                found[key] = found.get(key, 0) + value
        return found

    def servers(self) -> list[ReadableSpan]:
        return [span for span in self.finished() if span.kind is SpanKind.SERVER]

    def points(self, name: str) -> list[Any]:
        return points(self.reader, name)

    def holding(self, text: str) -> set[str]:
        """The signals in which ``text`` stands."""
        data = self.reader.get_metrics_data()
        found = {
            "spans": "".join(span.to_json() for span in self.finished()),
            "metrics": data.to_json() if data is not None else "",
            "logs": "".join(
                each.log_record.to_json() if hasattr(each.log_record, "to_json") else str(vars(each.log_record))
                for each in self.logs.get_finished_logs()
            ),
        }
        return {signal for signal, told in found.items() if text in told}


@contextmanager
def signals(*, observed: bool, settings: Settings | None = None) -> Iterator[Signals]:
    """Providers, the log handler that the launcher puts on the root logger, and our instrumentor where ``observed``."""
    told = Signals()
    handler = LoggingHandler(logger_provider=told.loggers)
    logging.getLogger().addHandler(handler)
    instrumentor = VibeVoiceInstrumentor()
    if observed:
        instrumentor.instrument(
            tracer_provider=told.tracers,
            meter_provider=told.meters,
            settings=settings or Settings(),
            skip_dep_check=True,
        )
    try:
        yield told
    finally:
        if instrumentor.recorder is not None:
            instrumentor.recorder.flush()
        instrumentor.uninstrument()
        logging.getLogger().removeHandler(handler)
        told.shutdown()


async def ask(
    app: App, kind: str, path: str, query: str = "", headers: Sequence[tuple[bytes, bytes]] = (),
    says: Sequence[str | bytes | float] = (), **scope: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """One request, as uvicorn makes it: what the application raises is logged, not passed on. Returns the messages it
    sent.

    ``says`` are the client's messages, and where one is a number so many seconds in which it says nothing.
    """
    sent: list[dict[str, Any]] = []
    came = iter([{"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request", "body": b""}])
    saying = iter(says)

    async def receive() -> dict[str, Any]:
        for message in came:
            return message
        for each in saying:
            if isinstance(each, float):
                await asyncio.sleep(each)
            else:
                return {"type": "websocket.receive", "bytes" if isinstance(each, bytes) else "text": each}
        return await asyncio.sleep(3600, {})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    try:
        await app(request(kind, path, query, headers, **scope), receive, send)
    except Exception as error:
        logging.getLogger(SERVER_LOG).exception("Exception in ASGI application\n", exc_info=error)
    return sent


def request(
    kind: str, path: str, query: str, headers: Sequence[tuple[bytes, bytes]] = (), **more: Any
) -> dict[str, Any]:
    """The scope of a request."""
    scope = {
        "type": kind, "asgi": {"version": "3.0"}, "http_version": "1.1",
        "scheme": "ws" if kind == "websocket" else "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"localhost"), *headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        "state": {},
    }  # fmt: skip
    return {**scope, **({"subprotocols": []} if kind == "websocket" else {"method": "GET"}), **more}
