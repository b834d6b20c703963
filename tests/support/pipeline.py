"""The whole pipeline in this process: a FastAPI application, OpenTelemetry's middleware, our hooks, exporters in
memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, WebSocket
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from tests.support.metrics import points
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.settings import Settings

CALLER = "0af7651916cd43dd8448eb211c80319c"


@dataclass
class Answer:
    """What the server said."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def audio(self) -> bytes:
        return b"".join(message.get("bytes") or b"" for message in self.messages)


@dataclass
class Pipeline:
    """A service that is observed by our instrumentor, with ``sampler`` at the head."""

    app: FastAPI
    spans_of: InMemorySpanExporter
    reader: InMemoryMetricReader
    instrumentor: VibeVoiceInstrumentor
    provider: TracerProvider
    _collected: Any = None  # an exemplar lives for one collection, so all is read from one

    async def ask(
        self,
        query: bytes = b"text=hello",
        headers: Sequence[tuple[bytes, bytes]] = (),
        *,
        leaves: bool = False,
        path: str = "/stream",
        root_path: str = "",
        refuses: BaseException | None = None,
    ) -> Answer:
        """One WebSocket request through the application's own entry.

        Args:
            query: the query string.
            headers: beside Host.
            leaves: the listener is gone after the first message.
            path: with any prefix, as uvicorn gives it.
            root_path: the prefix, as the server was told of it.
            refuses: what the server raises for the second chunk of audio.
        """
        answer, asked = Answer(), iter([{"type": "websocket.connect"}])
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            for message in asked:
                return message
            if not leaves:
                await asyncio.sleep(3600)
            await gone.wait()
            return {"type": "websocket.disconnect", "code": 1001}

        async def send(message: dict[str, Any]) -> None:
            if refuses is not None and message.get("bytes") and answer.audio:
                raise refuses
            answer.messages.append(message)
            gone.set()

        scope = {
            "type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "ws", "path": path,
            "raw_path": path.encode(),
            "query_string": query, "root_path": root_path, "headers": [(b"host", b"localhost"), *headers],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "subprotocols": [], "state": {},
        }  # fmt: skip
        try:
            await self.app(scope, receive, send)  # type: ignore[arg-type]
        except BaseException as error:
            if not isinstance(error, Exception) and error is not refuses:
                raise
            answer.error = error
        return answer

    def run(self, *queries: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> list[Answer]:
        async def all_of_them() -> list[Answer]:
            return [await self.ask(query, headers) for query in queries]

        answers = asyncio.run(all_of_them())
        self.flush()
        return answers

    def flush(self) -> None:
        recorder = self.instrumentor.recorder
        assert recorder is not None
        assert recorder.flush(60.0)
        assert self.provider.force_flush()
        self._collected = None

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.spans_of.get_finished_spans()

    def traces(self) -> dict[int, list[ReadableSpan]]:
        found: dict[int, list[ReadableSpan]] = {}
        for span in self.spans():
            found.setdefault(span.get_span_context().trace_id, []).append(span)  # type: ignore[union-attr]
        return found

    def metrics(self) -> Any:
        if self._collected is None:
            self._collected = self.reader.get_metrics_data()
        return self._collected

    def points(self, name: str) -> list[Any]:
        return points(self.metrics(), name)

    def counted(self, name: str, label: str) -> Counter[str]:
        """A counter's sum (or a histogram's count) by one attribute."""
        found: Counter[str] = Counter()
        for point in self.points(name):
            value = point.count if hasattr(point, "count") else point.value
            if value:
                found[str((point.attributes or {}).get(label))] += value
        return found


def speaking_app() -> FastAPI:
    app = FastAPI()

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        if socket.query_params.get("late"):
            await asyncio.sleep(float(socket.query_params["late"]))
        if socket.query_params.get("fail"):
            raise RuntimeError(f"cannot say {socket.query_params['text']}")
        for _ in range(2):  # of 67 ms each, or, where a busy moment must not let the listener run dry, of ten seconds
            await socket.send_bytes(b"\1\2" * (240_000 if socket.query_params.get("long") else 1600))
            await asyncio.sleep(float(socket.query_params.get("gap", "0")))
        await socket.close()

    return app


@contextmanager
def pipeline(
    sampler: Sampler | None = None, settings: Settings | None = None, app: FastAPI | None = None, **more: Any
) -> Iterator[Pipeline]:
    """Everything on, and everything off again."""
    provider, exporter, reader = TracerProvider(sampler=sampler), InMemorySpanExporter(), InMemoryMetricReader()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader])
    app = app or speaking_app()
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, meter_provider=meters)
    instrumentor = VibeVoiceInstrumentor()
    instrumentor.instrument(
        tracer_provider=provider, meter_provider=meters, settings=settings or Settings(), skip_dep_check=True, **more
    )
    assert instrumentor.recorder is not None  # as when a model's code has been imported; without it nothing is speech
    try:
        yield Pipeline(app, exporter, reader, instrumentor, provider)
    finally:
        instrumentor.uninstrument()
        FastAPIInstrumentor.uninstrument_app(app)
        provider.shutdown()
        meters.shutdown()


def caller(*, sampled: bool, trace_id: str = CALLER) -> list[tuple[bytes, bytes]]:
    return [(b"traceparent", f"00-{trace_id}-b7ad6b7169203331-{'01' if sampled else '00'}".encode())]


__all__ = ["Answer", "Pipeline", "caller", "metrics", "pipeline", "speaking_app", "trace"]
