"""WSGI requests that turn out to be speech: looked at from the application's call to the close of the body that it
returns.

A server takes a part of the body, sends it, and comes back for the next: a send lasts from the one to the other. It
closes a body that it does not take to the end where the listener has left.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace

from vibevoice_otel.privacy import exceptions
from vibevoice_otel.recording.clock import now
from vibevoice_otel.web.ends import Scope
from vibevoice_otel.web.exchange import Exchange

StartResponse = Callable[..., Any]
App = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]
_END = object()


def scope_of(environ: Mapping[str, Any]) -> Scope:
    """A request as ASGI describes one: what is read of a request is read of this; the environ itself is in it."""
    path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1").decode("utf-8", "replace")
    headers = [
        (name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    return {
        "type": "http", "method": environ.get("REQUEST_METHOD", ""), "path": path, "headers": headers,
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"), "wsgi.environ": environ,
    }  # fmt: skip


class WsgiExchange(Exchange):
    """One request to a WSGI application."""

    __slots__ = ("_declared", "_given", "_length", "_sending")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._declared: str | None = None
        self._length: int | None = None  # bytes that the answer announces, and those that the server has taken
        self._given = 0
        self._sending: tuple[int, bytes] | None = None  # what the server has taken last, and when

    def routed(self, route: str | None) -> None:
        """The application is about to answer, by the route that it declares so: a layer of OpenTelemetry's inside it
        has begun its SERVER span by now.
        """
        self._declared = route
        server = trace.get_current_span()
        if server.get_span_context().is_valid:
            self._server, self._context = server, otel_context.get_current()

    def _route(self) -> str:
        return self._declared or super()._route()

    def serve(self, app: App, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Call ``app``, which is the request's."""
        try:
            with self._inside():
                body = app(environ, self._starting(start_response))
        except BaseException as error:
            self._failed(error)
            self._guard("the end of a request", self._end)
            raise
        files = environ.get("wsgi.file_wrapper")
        if self.candidate.timeline is None and isinstance(files, type) and isinstance(body, files):
            self._guard("the end of a request", self._ended)  # a file, which a server knows by its class
            return body
        return _Body(self, body)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """The application's code runs in the block."""
        with super()._inside(), exceptions.protected(self._server):
            yield

    def _starting(self, start_response: StartResponse) -> StartResponse:
        def starting(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            if self._recorder.settings.response_headers:
                headers = self._told(headers)
            write = start_response(status, headers, *exc_info)
            self._guard("the beginning of an answer", self._started, status, headers)
            return write

        return starting

    def _told(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        message = self._answer({"type": "http.response.start", "headers": ()})
        return [*headers, *((name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"])]

    def _started(self, status: str, headers: list[tuple[str, str]]) -> None:
        found = {name.lower(): value for name, value in headers}
        length = found.get("content-length", "")
        self._length = int(length) if length.isdecimal() else None
        self._begun(int(status[:3]), found.get("content-type", ""))

    def take(self, body: Iterator[bytes]) -> Any:
        """The next part of the body, for the server; ``_END`` after the last."""
        self._guard("a part of the answer", self._sent)
        try:
            with self._inside():
                data = next(body, _END)
        except BaseException as error:
            self._failed(error)
            raise
        if data is _END:
            self._guard("the end of a request", self._ended)
        else:
            self._sending = now(), data  # type: ignore[assignment]
        return data

    def _sent(self) -> None:
        """The server is back: what it has taken before is sent."""
        if self._sending is not None:
            (started, data), self._sending = self._sending, None
            self._given += len(data)
            if data:
                self._carried(data, started, now())

    def _ended(self) -> None:
        self._complete = True
        self._answered(now())

    def closed(self, close: Callable[[], object] | None) -> None:
        """The server is done with the body, taken to its end or not; ``close`` is the body's own."""
        if not self._complete:
            self._guard("a listener's departure", self._broken_off, sys.exc_info()[1])
        try:
            if close is not None:
                with self._inside():
                    close()
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._guard("the end of a request", self._end)

    def _broken_off(self, error: BaseException | None) -> None:
        """The body was not taken to its end: a send failed by ``error``, or the server was told that the listener has
        left.
        """
        if self._error is not None:  # the application's own
            return
        if error is not None:
            self._unsent(error)
            self._failed(error)
            return
        self._sent()
        if self._length is not None and self._given >= self._length:
            self._ended()
        else:
            self._has_left()


class _Body:
    """The body that the application has returned, as the server takes it."""

    __slots__ = ("_close", "_exchange", "_parts")

    def __init__(self, exchange: WsgiExchange, body: Iterable[bytes]) -> None:
        self._exchange = exchange
        self._parts = iter(body)
        self._close = getattr(body, "close", None)

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        data = self._exchange.take(self._parts)
        if data is _END:
            raise StopIteration
        return data  # type: ignore[no-any-return]

    def close(self) -> None:
        self._exchange.closed(self._close)
