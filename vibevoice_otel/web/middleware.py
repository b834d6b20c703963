"""The request's timeline as the socket sees it. A plain ASGI class inside the OpenTelemetry one, whose SERVER span it
continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from vibevoice_otel import failures, routes
from vibevoice_otel.failures import P, T
from vibevoice_otel.privacy import exceptions, query
from vibevoice_otel.recording.candidate import Candidate, arrival, is_served
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.timeline import Asked, Timeline, current, nobodys, serving
from vibevoice_otel.web import answers, ends, formats
from vibevoice_otel.web.ends import App, Message, Receive, Scope, Send
from vibevoice_otel.web.exchange import http_routes, may_be_speech, template
from vibevoice_otel.web.http import AsgiExchange
from vibevoice_otel.web.tenants import Tenants

if TYPE_CHECKING:
    from vibevoice_otel.deferred import DeferredRecorder
    from vibevoice_otel.recording.recorder import Recorder

#: When the outermost application of the process was called with the scope.
ARRIVED = "vibevoice_otel.arrived"


class RequestMiddleware:
    """Opens a timeline for each WebSocket that is for speech and notes what happens on it.

    Args:
        app: the application inside.
        recorder: where timelines are opened; once it is gone, every request passes.
    """

    def __init__(self, app: App, recorder: Recorder | DeferredRecorder) -> None:
        self.app = app
        self.recorder = recorder
        self._routes = routes.SpeechRoutes(recorder.settings.routes)
        self._over_http = http_routes(recorder.settings)
        self._tenants = Tenants(recorder.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self.recorder.gone:
            await self.app(scope, receive, send)
            return
        with exceptions.protected(trace.get_current_span()):
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if current.get() is None and not is_instrumentation_enabled():
            with serving(nobodys()):
                await self.app(scope, receive, send)
            return
        if scope["type"] == "http" and self._speaks(scope) and not _is_further_in(scope):
            exchange = AsgiExchange(scope, _arrived(scope), self.recorder, self._over_http, self._tenants)
            await exchange.serve(self.app, receive, send)
            return
        request = self._guard("the beginning of a request", self._request, scope)
        if request is None:
            await self.app(scope, receive, send)
            return
        timeline = request.timeline
        server = trace.get_current_span()
        tokens = current.set(timeline), arrival.set(request.candidate)
        attached = (
            otel_context.attach(timeline.context) if timeline is not None and timeline.context is not None else None
        )
        raised = None
        try:
            await self.app(scope, self._receiving(request, receive), self._sending(request, send, server))
        except BaseException as error:
            raised = type(error).__name__
            raise
        finally:
            if attached is not None:
                otel_context.detach(attached)
            current.reset(tokens[0])
            arrival.reset(tokens[1])
            request.candidate.end()
            if request.timeline is not None:
                request.timeline.web_error = request.timeline.web_error or raised
                self._guard("the end of a request", self._ended, request.timeline, server, scope)
                self._guard("the end of a request", self.recorder.release, request.timeline, "web")

    def _request(self, scope: Scope) -> _Request | None:
        """The WebSocket, where it may be one of speech; on a speech route its timeline is open."""
        if scope["type"] != "websocket" or not self._speaks(scope) or _is_further_in(scope):
            return None
        request = _Request(scope, self._open)
        if scope["path"] in self._routes:
            request.begin()
        return request

    def _speaks(self, scope: Scope) -> bool:
        return may_be_speech(self.recorder, self._routes, scope["path"])

    def _ended(self, timeline: Timeline, server: trace.Span, scope: Scope) -> None:
        timeline.web_closed = now()
        timeline.tenant = self._tenants.of(scope)
        if timeline not in self.recorder:
            return  # the observation ended before the request did: it is not judged
        if self.recorder.closing and timeline.service_closed is None:
            timeline.cut_off = True  # a close that looks like a departure is the service's
        ends.tell(server, timeline)

    def _guard(self, where: str, note: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        return failures.attempt(self.recorder.on_drop, where, note, *args, **kwargs)

    def _open(self, request: _Request) -> Timeline | None:
        return self._guard("the beginning of a request", self._opened, request)

    def _opened(self, request: _Request) -> Timeline:
        scope = request.scope
        asked = query.asked(scope.get("query_string", b""), keep_text=self.recorder.settings.capture_text)
        ends.mark(asked, scope)
        return self.recorder.open("web", context=request.context, asked=asked, opened=request.arrived)

    def _receiving(self, request: _Request, receive: Receive) -> Receive:
        async def observed() -> Message:
            message = await receive()
            self._guard("a message from the listener", request.received, message)
            return message

        return observed

    def _sending(self, request: _Request, send: Send, server: trace.Span) -> Send:
        async def observed(message: Message) -> None:
            timeline = request.timeline
            if message["type"] == "websocket.accept" and self.recorder.settings.response_headers:
                message = self._guard("the headers of an answer", _answer, message, server, timeline) or message
            if timeline is not None:
                self._guard("a message to the listener", _before_send, timeline, message)
            started = now()
            try:
                await send(message)
            except BaseException as error:
                if timeline is not None:
                    ends.unsent(timeline, error)
                raise
            if message["type"] == "websocket.accept":
                self._guard("a message to the listener", request.accepted)
            elif timeline is not None:
                self._guard("a message to the listener", _sent, timeline, message, started)

        return observed


class _Request:
    """A WebSocket: speech from its arrival on a speech route, elsewhere once a generation works for it.

    Args:
        scope: the connection's.
        open_: opens the timeline; None where it could not.
    """

    __slots__ = ("_accepted", "_open", "_said", "arrived", "candidate", "context", "scope")

    def __init__(self, scope: Scope, open_: Callable[[_Request], Timeline | None]) -> None:
        self.scope = scope
        self.arrived = _arrived(scope)
        self.context = ends.caller(scope, otel_context.get_current())
        self.candidate = Candidate(self._promote)
        self._open = open_
        self._accepted: int | None = None
        self._said: int | None = None

    def begin(self) -> Timeline | None:
        """Open the timeline, with what was noted before."""
        self.candidate.timeline = timeline = self._open(self)
        if timeline is not None:
            timeline.accepted, timeline.said = self._accepted, self._said
        return timeline

    @property
    def timeline(self) -> Timeline | None:
        """The request's, where it is one of speech."""
        return self.candidate.timeline

    def _promote(self, asked: Asked) -> Timeline | None:
        """What works for the request speaks: open its timeline, and know its route from now on."""
        timeline = self.begin()
        if timeline is not None:
            if not timeline.asked.by_url:
                timeline.asked.text_length = asked.text_length
            routes.learn(template(self.scope), over_http=False)
        return timeline

    def accepted(self) -> None:
        self._accepted = now()
        if self.timeline is not None:
            self.timeline.accepted = self._accepted

    def received(self, message: Message) -> None:
        """Note that a message has come: what to speak, as long as no work has begun; or that the listener has left."""
        timeline = self.timeline
        if message["type"] == "websocket.receive":
            if timeline is None:
                self._said = now()
            elif timeline.work_start is None:
                timeline.said = now()
        elif message["type"] == "websocket.disconnect" and timeline is not None:
            _left(timeline, message)


def _arrived(scope: Scope) -> int:
    """When the request came in: no earlier than its SERVER span, in which all of it lies."""
    if trace.get_current_span().get_span_context().is_valid:
        return now()
    return int(scope.get(ARRIVED) or now())


def _is_further_in(scope: Scope) -> bool:
    """Whether another RequestMiddleware of the request is nearer to what makes its SERVER span, or has begun.

    An application without a layer of OpenTelemetry's leaves the request to the one that it has mounted, which may have
    one.
    """
    if is_served():
        return True
    if trace.get_current_span().get_span_context().is_valid:
        return False
    return _is_mounted(getattr(scope.get("app"), "routes", ()), scope)


def _is_mounted(routes: Iterable[Any], scope: Scope) -> bool:
    """Whether the first of ``routes`` that takes the request passes it to another application."""
    for route in routes:
        match, child = route.matches(scope)
        if match.name != "FULL":
            continue
        target = getattr(route, "app", None)
        while target is not None and not hasattr(target, "build_middleware_stack"):
            if hasattr(target, "routes"):
                return _is_mounted(target.routes, {**scope, **child})
            target = getattr(target, "app", None)
        return target is not None
    return False


def _answer(message: Message, server: trace.Span, timeline: Timeline | None) -> Message:
    if not server.get_span_context().is_valid and timeline is not None:  # no layer of OpenTelemetry's
        server = trace.get_current_span(timeline.context)
    return answers.with_trace(message, server)


def _before_send(timeline: Timeline, message: Message) -> None:
    if message["type"] == "websocket.close":
        timeline.close_code = int(message.get("code", 1000))
        if timeline.cancelled is None:
            timeline.service_closed = now()


def _sent(timeline: Timeline, message: Message, started: int) -> None:
    """Note a message that carries audio: bytes, or a JSON event with audio in it, of which bytes tell no time."""
    if message["type"] != "websocket.send":
        return
    ended = now()
    if data := message.get("bytes"):
        timeline.sent(started, ended, len(data))
    elif (text := message.get("text")) and formats.is_audio(text):
        timeline.byte_rate = None
        timeline.sent(started, ended, len(text))


def _left(timeline: Timeline, message: Message) -> None:
    if timeline.service_closed is None and timeline.cancelled is None:
        timeline.cancelled = now()
        timeline.close_code = message.get("code", 1005)
