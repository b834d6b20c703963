"""The request's timeline as the socket sees it. A plain ASGI class inside the OpenTelemetry one, whose SERVER span it continues."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from vibevoice_otel import semconv
from vibevoice_otel.recording import outcome
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.timeline import Timeline, current
from vibevoice_otel.web import query

if TYPE_CHECKING:
    from vibevoice_otel.recording.recorder import Recorder

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Where the outer layer keeps the query string that it hid from everything between it and us.
ORIGINAL_QUERY = "vibevoice_otel.query_string"
SYNTHETIC_BAGGAGE = "vibevoice.synthetic"


class RequestMiddleware:
    """Opens a timeline for each WebSocket on one of the routes and notes what happens on it.

    Args:
        app: the application inside.
        recorder: where timelines are opened.
    """

    def __init__(self, app: App, recorder: Recorder) -> None:
        self.app = app
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if ORIGINAL_QUERY in scope:
            scope["query_string"] = scope[ORIGINAL_QUERY]
        if scope["type"] != "websocket" or scope["path"] not in self._recorder.settings.routes:
            await self.app(scope, receive, send)
            return
        arrived = now()
        timeline = self._open(scope, arrived)
        if timeline is None:
            await self.app(scope, receive, send)
            return
        server = trace.get_current_span()
        token = current.set(timeline)
        attached = otel_context.attach(timeline.context) if timeline.context is not None else None
        try:
            await self.app(scope, _receiving(timeline, receive), _sending(timeline, send))
        except BaseException as error:
            timeline.web_error = type(error).__name__
            raise
        finally:
            if attached is not None:
                otel_context.detach(attached)
            current.reset(token)
            timeline.web_closed = now()
            _tell(server, timeline)
            self._recorder.release(timeline, "web")

    def _open(self, scope: Scope, arrived: int) -> Timeline | None:
        try:
            asked = query.asked(scope.get("query_string", b""), keep_text=self._recorder.settings.capture_text)
            context = otel_context.get_current()
            asked.synthetic = _synthetic(scope)
            return self._recorder.open("web", context=context, asked=asked, opened=arrived)
        except Exception:  # noqa: BLE001 - a request is served whatever telemetry meets
            self._recorder.on_drop("records", "open_error", 1)
            return None


def _synthetic(scope: Scope) -> bool:
    """Whether a probe sent the request: it says so in W3C baggage, ``vibevoice.synthetic=true``."""
    for name, value in scope.get("headers", ()):
        if name == b"baggage" and len(value) <= 8192:
            members = (member.split(b";")[0].partition(b"=") for member in value.split(b","))
            if any(key.strip() == SYNTHETIC_BAGGAGE.encode() and text.strip() == b"true" for key, _, text in members):
                return True
    return False


def _receiving(timeline: Timeline, receive: Receive) -> Receive:
    async def observed() -> Message:
        message = await receive()
        if message["type"] == "websocket.disconnect" and timeline.service_closed is None and timeline.cancelled is None:
            timeline.cancelled = now()
            timeline.close_code = message.get("code", 1005)
        return message

    return observed


def _sending(timeline: Timeline, send: Send) -> Send:
    async def observed(message: Message) -> None:
        kind = message["type"]
        data = message.get("bytes") if kind == "websocket.send" else None
        if kind == "websocket.close":
            timeline.close_code = int(message.get("code", 1000))
            if timeline.cancelled is None:
                timeline.service_closed = now()
        started = now()
        try:
            await send(message)
        except BaseException:
            if timeline.cancelled is None and timeline.service_closed is None:
                timeline.cancelled = now()
            raise
        if kind == "websocket.accept":
            timeline.accepted = now()
        elif data:
            ended = now()
            if timeline.first_send is None:
                timeline.first_send = ended
            timeline.sends.extend((started, ended, len(data)))

    return observed


def _tell(server: trace.Span, timeline: Timeline) -> None:
    """Give the SERVER span its true status: by itself it ends UNSET whatever happened on the socket."""
    if not server.is_recording():
        return
    status, error_type = outcome.decide(timeline)
    server.set_attribute(semconv.STATUS.key, status.value)
    if error_type is not None:
        server.set_attribute(semconv.ERROR_TYPE.key, error_type)
    if outcome.failed(status, error_type):
        server.set_status(Status(StatusCode.ERROR, error_type))
