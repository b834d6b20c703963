"""What a WebSocket and an HTTP exchange have in common: whose trace a request is in, and how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Status, StatusCode

from vibevoice_otel import semconv
from vibevoice_otel.recording import outcome
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.timeline import Asked, Timeline
from vibevoice_otel.traceparent import adoption
from vibevoice_otel.web.tenants import baggage

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SYNTHETIC_BAGGAGE, SAMPLE_BAGGAGE = b"vibevoice.synthetic", b"vibevoice.gpu.sample"


def caller(scope: Scope, context: Context) -> Context:
    """``context``; where no layer of OpenTelemetry's has taken the caller's trace from the headers, with that."""
    if trace.get_current_span(context).get_span_context().is_valid:
        return context
    headers: dict[str, list[str]] = {}
    for name, value in adoption.headers(scope):
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return propagate.extract(headers, context)


def mark(asked: Asked, scope: Scope) -> None:
    """Say of what was asked for whether a probe asks: its baggage says ``vibevoice.synthetic=true``."""
    told = {key for key, text in baggage(scope) if text == b"true"}
    asked.synthetic = SYNTHETIC_BAGGAGE in told
    asked.sample = asked.synthetic and SAMPLE_BAGGAGE in told


def unsent(timeline: Timeline, error: BaseException) -> None:
    """A send failed: because the listener has left where the error says so, else by a failure of the service's.

    A cancellation says neither: a timeout or the end of the service may have caused it (outcome.decide).
    """
    if (
        timeline.cancelled is not None
        or timeline.service_closed is not None
        or type(error).__name__ == outcome.CANCELLED
    ):
        return
    timeline.web_error = type(error).__name__
    if outcome.peer_gone(error):
        timeline.cancelled, timeline.web_error = now(), outcome.PEER_GONE


def tell(server: trace.Span, timeline: Timeline) -> None:
    """Give the SERVER span its true status: by itself it ends UNSET whatever happened on the socket."""
    if not server.is_recording():
        return
    status, error_type = outcome.decide(timeline)
    server.set_attribute(semconv.STATUS.key, status.value)
    if error_type is not None:
        server.set_attribute(semconv.ERROR_TYPE.key, error_type)
    if outcome.failed(status, error_type):
        server.set_status(Status(StatusCode.ERROR, error_type))
