"""What the service tells its caller of the trace and of the time: ``traceresponse`` and, over HTTP, ``Server-Timing``.
Off by default.
"""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry import trace
from opentelemetry.instrumentation.propagators import (
    TraceResponsePropagator,
    get_global_response_propagator,
)

from vibevoice_otel import semconv
from vibevoice_otel.recording.timeline import Note
from vibevoice_otel.web.ends import Message

#: Operations whose times a caller may read, by the names of their metrics in Server-Timing.
TOLD = {
    semconv.QUEUE: "queue",
    semconv.MODEL_LOAD: "model_load",
    semconv.VOICE_LOAD: "voice_load",
    semconv.PREPROCESS: "preprocess",
}


_PROPAGATOR = TraceResponsePropagator()


def with_trace(message: Message, server: trace.Span) -> Message:
    """A copy of ``message`` (``http.response.start`` or ``websocket.accept``) with ``traceresponse`` of ``server``.

    Where the program has set a response propagator of its own, OpenTelemetry's middleware answers with that, and
    nothing is added.
    """
    if get_global_response_propagator() is not None:  # type: ignore[no-untyped-call]
        return message
    told: dict[str, str] = {}
    _PROPAGATOR.inject(told, trace.set_span_in_context(server))
    headers = ((key.lower().encode(), value.encode()) for key, value in told.items())
    return {**message, "headers": [*message.get("headers", ()), *headers]}


def with_timing(message: Message, notes: Iterable[Note], waited: int) -> Message:
    """A copy of ``http.response.start`` with the parts that are known now, in milliseconds, and ``total``, the
    ``waited`` ns so far.
    """
    parts = [f"{TOLD[note.span]};dur={(note.end - note.start) / 1e6:.1f}" for note in notes if note.span in TOLD]
    value = ", ".join([*parts, f"total;dur={waited / 1e6:.1f}"])
    return {**message, "headers": [*message.get("headers", ()), (b"server-timing", value.encode())]}
