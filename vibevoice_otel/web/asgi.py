"""Requests of ASGI applications that turn out to be speech, over HTTP and over WebSockets.

We call neither ``receive`` nor ``send`` by ourselves and keep no body: messages are looked at as the application takes
and gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from vibevoice_otel import routes
from vibevoice_otel.privacy import query
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.timeline import Asked, Timeline, serving
from vibevoice_otel.web import answers, ends, formats
from vibevoice_otel.web.ends import App, Message, Receive, Send
from vibevoice_otel.web.exchange import Exchange

if TYPE_CHECKING:
    from opentelemetry.context import Context

#: Messages with the headers of an answer.
HEADED = ("http.response.start", "websocket.accept")


class AsgiExchange(Exchange):
    """One HTTP request to an ASGI application."""

    __slots__ = ()

    async def serve(self, app: App, receive: Receive, send: Send) -> None:
        """Run ``app``, which is the request's."""
        try:
            with self._inside():
                await app(self._scope, self._receiving(receive), self._sending(send))
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._guard("the end of a request", self._end)

    def _receiving(self, receive: Receive) -> Receive:
        async def observed() -> Message:
            message = await receive()
            self._guard("a message from the listener", self._received, message)
            return message

        return observed

    def _sending(self, send: Send) -> Send:
        async def observed(message: Message) -> None:
            if message["type"] in HEADED and self._recorder.settings.response_headers:
                message = self._answer(message)
            if message["type"] == "websocket.close":
                self._guard("a message to the listener", self._closing, message)
            started = now()
            try:
                await send(message)
            except BaseException as error:
                self._unsent(error)
                raise
            self._guard("a message to the listener", self._sent, message, started, now())

        return observed

    def _received(self, message: Message) -> None:
        if message["type"] == "http.disconnect" and not self._complete and self._left is None:
            self._has_left()

    def _closing(self, message: Message) -> None:
        """The service is about to close its WebSocket."""
        timeline = self.candidate.timeline
        if timeline is not None:
            timeline.close_code = int(message.get("code", 1000))
            if timeline.cancelled is None:
                timeline.service_closed = now()

    def _sent(self, message: Message, started: int, ended: int) -> None:
        if message["type"] == "http.response.start":
            self._begun(message["status"], _content_type(message))
        elif message["type"] == "http.response.body":
            if data := message.get("body", b""):
                self._carried(data, started, ended)
            if not message.get("more_body", False):
                self._complete = True
                self._answered(ended)


class SocketExchange(AsgiExchange):
    """A WebSocket: speech from its arrival on a speech route, elsewhere once a generation works for it."""

    __slots__ = ("_accepted", "_said")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._accepted: int | None = None
        self._said: int | None = None

    def _begin(self) -> Timeline:
        """Open the timeline, with what was noted before."""
        asked = query.asked(self._scope.get("query_string", b""), keep_text=self._recorder.settings.capture_text)
        ends.mark(asked, self._scope)
        timeline = self._recorder.open(
            "web", context=ends.caller(self._scope, self._context), asked=asked, opened=self._arrived
        )
        timeline.accepted, timeline.said = self._accepted, self._said
        self.candidate.timeline = timeline
        return timeline

    def _open(self, asked: Asked) -> Timeline | None:
        """What works for the request speaks: open its timeline, and know its route from now on."""
        timeline = self._guard("the beginning of a request", self._begin)
        if timeline is not None:
            if not timeline.asked.by_url:
                timeline.asked.text_length = asked.text_length
            routes.learn(self._route(), over_http=False)
        return timeline

    def _within(self) -> Context:
        timeline = self.candidate.timeline
        return self._context if timeline is None or timeline.context is None else timeline.context

    def _begin_known(self) -> None:
        if self._scope["path"] in self._known:
            self._begin()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        self._guard("the beginning of a request", self._begin_known)
        with super()._inside(), serving(self.candidate.timeline):
            yield

    def _with_headers(self, message: Message) -> Message:
        server, timeline = self._server, self.candidate.timeline
        if not server.get_span_context().is_valid and timeline is not None:  # no layer of OpenTelemetry's
            server = trace.get_current_span(timeline.context)
        return answers.with_trace(message, server)

    def _received(self, message: Message) -> None:
        """Note that a message has come: what to speak, as long as no work has begun; or that the listener has left."""
        timeline = self.candidate.timeline
        if message["type"] == "websocket.receive":
            if timeline is None:
                self._said = now()
            elif timeline.work_start is None:
                timeline.said = now()
        elif (
            message["type"] == "websocket.disconnect"
            and timeline is not None
            and timeline.service_closed is None
            and timeline.cancelled is None
        ):
            timeline.cancelled = now()
            timeline.close_code = message.get("code", 1005)

    def _sent(self, message: Message, started: int, ended: int) -> None:
        """Note a message that carries audio: bytes, or a JSON event with audio in it, of which bytes tell no time."""
        timeline = self.candidate.timeline
        if message["type"] == "websocket.accept":
            self._accepted = ended
            if timeline is not None:
                timeline.accepted = ended
        elif message["type"] == "websocket.send" and timeline is not None:
            if data := message.get("bytes"):
                timeline.sent(started, ended, len(data))
            elif (text := message.get("text")) and formats.is_audio(text):
                timeline.byte_rate = None
                timeline.sent(started, ended, len(text))

    def _end(self) -> None:
        timeline = self.candidate.end()
        if timeline is not None:  # without a close of the service's, what looks like a departure may be its stop
            self._over(timeline, now(), whole=timeline.service_closed is not None)


def _content_type(message: Message) -> str:
    for name, value in message.get("headers", ()):
        if name.lower() == b"content-type":
            return str(value, "latin-1")
    return ""
