"""OpenTelemetry's own ASGI and WSGI layers read a request without the spoken text; everything else reads it as it came.

An ASGI layer is recognised by module and class, wherever it stands: around the application, between its middlewares, in
a mount, or inside FastAPI itself. Its ``__call__`` is given a :class:`Told`, a view of the scope, and whatever it calls
next is given the scope again. Nothing is put into an application, so nothing has to leave one, and a request in flight
at uninstrument ends as it began.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from types import ModuleType
from typing import Any

from opentelemetry import trace

from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.privacy import exceptions
from vibevoice_otel.privacy.query import Redactor
from vibevoice_otel.traceparent import adoption

#: Module and class of each layer, contrib's first. FastAPI's runs in ``FastAPI.__call__``, before any middleware.
LAYERS = (
    ("opentelemetry.instrumentation.asgi", "OpenTelemetryMiddleware"),
    ("starlette.middleware.opentelemetry", "OpenTelemetryMiddleware"),
    ("fastapi.telemetry._asgi", "NativeTelemetry"),
)
PART = "the hiding of the spoken text from OpenTelemetry's spans of web requests"
#: The module of contrib's WSGI middleware, and what of an environ holds the whole of a request's target: gunicorn's and
#: werkzeug's, uWSGI's.
WSGI = "opentelemetry.instrumentation.wsgi"
TARGETS = ("RAW_URI", "REQUEST_URI")
#: contrib's switches for its span of every single message.
MESSAGE_SPANS = ("exclude_receive_span", "exclude_send_span")

Scope = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]


class Told(MutableMapping[str, Any]):
    """A scope as it may be told: ``hidden`` stands in place of the scope's own values, all else is read from and
    written to it. It prints as no more than an object: a hook may put ``str(scope)`` on a span.

    Args:
        scope: the true one; no copy is made of it.
        hidden: what is read instead, by key.
    """

    __slots__ = ("_hidden", "scope")

    def __init__(self, scope: Scope, hidden: Mapping[str, Any]) -> None:
        self.scope = scope
        self._hidden = {key: value for key, value in hidden.items() if key in scope}

    def __getitem__(self, key: str) -> Any:
        return self._hidden[key] if key in self._hidden else self.scope[key]

    def __setitem__(self, key: str, value: Any) -> None:
        (self._hidden if key in self._hidden else self.scope)[key] = value

    def __delitem__(self, key: str) -> None:
        del self.scope[key]
        self._hidden.pop(key, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.scope)

    def __len__(self) -> int:
        return len(self.scope)

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def true(self, told: Scope) -> Scope:
        """The true scope of ``told``: of this view itself, or of a copy that the layer made of it."""
        if told is self:
            return self.scope
        for key, value in self._hidden.items():
            if told.get(key) == value:
                told[key] = self.scope[key]
        return told


class LayerGuard:
    """Hooks every layer of :data:`LAYERS` as its module is imported, and the function by which contrib's WSGI
    middleware (and Flask's, which calls it) makes attributes of a request.

    Args:
        hooks: where taking the hooks out again is remembered.
        redactor: says what of a query string may be told.
        message_spans: whether the layers keep their span of every WebSocket message.
    """

    def __init__(self, hooks: Hooks, redactor: Redactor, *, message_spans: bool) -> None:
        self._hooks, self._redactor, self._quiet = hooks, redactor, not message_spans

    def instrument(self) -> None:
        for module, name in LAYERS:
            self._hooks.on_import(module, partial(self._attach, name))
        self._hooks.on_import(WSGI, lambda m: self._hooks.replace(m, "collect_request_attributes", self._collect, PART))

    def _attach(self, name: str, module: ModuleType) -> None:
        self._hooks.replace_in(module, name, "__call__", self._call, PART)

    async def _call(self, original: Callable[..., Awaitable[None]], layer: Any, /, *args: Any, **kwargs: Any) -> None:
        scope = args[0] if args else kwargs["scope"]
        if scope["type"] not in {"http", "websocket"}:
            await original(layer, *args, **kwargs)
            return
        told = self._told(scope)
        if not args:  # FastAPI's, which is given the application with each request
            await original(layer, **{**kwargs, "scope": told, "app": _restoring(told, kwargs["app"])})
            return
        seen = copy.copy(layer)  # the layer for the length of one request
        seen.app = _restoring(told, layer.app)
        if self._quiet and hasattr(seen, MESSAGE_SPANS[0]):
            for name in MESSAGE_SPANS:
                setattr(seen, name, True)
        given = dict(vars(seen))
        try:
            await original(seen, told, *args[1:], **kwargs)
        finally:
            for name, value in vars(seen).items():
                if value is not given.get(name):  # contrib's remembers the length of its last answer
                    setattr(layer, name, value)

    def _told(self, scope: Scope) -> Told:
        true = scope.scope if isinstance(scope, Told) else scope
        try:
            hidden: dict[str, Any] = {"query_string": self._redactor.query(true["path"], true.get("query_string", b""))}
            headers = adoption.headers(true)
            if headers is not true["headers"] or not all(value.isascii() for _, value in headers):
                hidden["headers"] = readable(headers)
        except Exception as error:  # noqa: BLE001 - the request is served, and nothing of its query is told
            self._hooks.failed("the hiding of a query string", error)
            hidden = {"query_string": b""}
        return Told(true, hidden)

    def _collect(self, original: Callable[..., Any], /, environ: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The function sees a copy of ``environ`` as it may be told."""
        told = dict(environ)
        try:
            path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
            query = self._redactor.query(path, environ.get("QUERY_STRING", "").encode("latin-1")).decode("latin-1")
        except Exception as error:  # noqa: BLE001 - the request is served, and nothing of its query is told
            self._hooks.failed("the hiding of a query string", error)
            query = ""
        told["QUERY_STRING"] = query
        for name in TARGETS:
            if name in told:
                told[name] = str(told[name]).partition("?")[0] + (f"?{query}" if query else "")
        return original(told, *args, **kwargs)


def readable(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """``headers`` in UTF-8: contrib's layer takes others for Python's escapes, and a stray backslash then fails the
    request.
    """
    return [(name, value if _is_utf8(value) else value.decode("latin-1").encode()) for name, value in headers]


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _restoring(told: Told, app: App) -> App:
    async def inside(scope: Scope, receive: Any, send: Any) -> None:
        with exceptions.protected(trace.get_current_span()):
            await app(told.true(scope), receive, send)

    return inside


def is_layer(candidate: object) -> bool:
    """Whether ``candidate`` is one of :data:`LAYERS`, or an instance of a class that extends one."""
    return any((kind.__module__, kind.__name__) in LAYERS for kind in type(candidate).__mro__)
