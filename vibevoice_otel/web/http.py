"""HTTP requests of ASGI applications that turn out to be speech.

We call neither ``receive`` nor ``send`` by ourselves and keep no body: messages are looked at as the application takes
and gives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import context as otel_context

from vibevoice_otel.recording.candidate import REQUEST, arrival
from vibevoice_otel.recording.clock import now
from vibevoice_otel.web.ends import Message, Receive, Send
from vibevoice_otel.web.exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class AsgiExchange(Exchange):
    """One request to an ASGI application."""

    __slots__ = ()

    async def serve(self, app: Callable[..., Awaitable[None]], receive: Receive, send: Send) -> None:
        """Run ``app``, which is the request's."""
        token = arrival.set(self.candidate)
        # OpenTelemetry's threading instrumentation takes this context into threads and executors, where ours is not.
        attached = otel_context.attach(otel_context.set_value(REQUEST, self.candidate, self._context))
        try:
            await app(self._scope, self._receiving(receive), self._sending(send))
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            otel_context.detach(attached)
            arrival.reset(token)
            self._guard("the end of a request", self._end)

    def _receiving(self, receive: Receive) -> Receive:
        async def observed() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not self._complete and self._left is None:
                self._has_left()
            return message

        return observed

    def _sending(self, send: Send) -> Send:
        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start" and self._recorder.settings.response_headers:
                message = self._answer(message)
            started = now()
            try:
                await send(message)
            except BaseException as error:
                self._unsent(error)
                raise
            self._guard("a message to the listener", self._sent, message, started, now())

        return observed

    def _sent(self, message: Message, started: int, ended: int) -> None:
        if message["type"] == "http.response.start":
            self._begun(message["status"], _content_type(message))
        elif message["type"] == "http.response.body":
            if data := message.get("body", b""):
                self._carried(data, started, ended)
            if not message.get("more_body", False):
                self._complete = True
                self._answered(ended)


def _content_type(message: Message) -> str:
    for name, value in message.get("headers", ()):
        if name.lower() == b"content-type":
            return str(value, "latin-1")
    return ""
