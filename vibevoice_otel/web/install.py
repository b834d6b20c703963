"""Puts the two layers around any Starlette or FastAPI application of the process, without its knowledge.

    outer (here)  >  OpenTelemetry's middleware, if any  >  RequestMiddleware  >  the application

The outer one hides the spoken text from everything that reads the URL in between, and mends headers that what is in between would
fail on; RequestMiddleware restores both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.privacy import query
from vibevoice_otel.web.middleware import ORIGINAL_HEADERS, ORIGINAL_QUERY, Receive, RequestMiddleware, Scope, Send

if TYPE_CHECKING:
    from vibevoice_otel.recording.recorder import Recorder

#: Attribute of an application: the middleware stack that we have seen, and whether RequestMiddleware is in it.
STACK = "_vibevoice_otel_stack"
#: Layers that stay outside ours: error pages, and OpenTelemetry's own.
OUTSIDE = ("ServerErrorMiddleware", "OpenTelemetryMiddleware", "ExceptionHandlerMiddleware")


class WebAdapter:
    """Attaches when starlette.applications is imported.

    Args:
        recorder: where timelines are opened.
        before: sees every scope (the application's life span too) before anything else, and returns the one to go on with.
    """

    def __init__(self, recorder: Recorder, before: Callable[[Scope], Scope] | None = None) -> None:
        self._recorder = recorder
        self._before = before
        self._redactor = query.Redactor(recorder.settings.routes, lambda name: name in recorder.bounds.voices)
        self.hooks = Hooks("web", recorder.on_drop)

    def instrument(self) -> None:
        self.hooks.on_import("starlette.applications", self._attach)

    def uninstrument(self) -> None:
        self.hooks.undo()

    def _attach(self, module: ModuleType) -> None:
        self.hooks.replace(module.Starlette, "__call__", self._call, "first-audio latency and every socket's end")

    def _call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        recorder, before, redactor, hooks = self._recorder, self._before, self._redactor, self.hooks

        async def call(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                if before is not None and ORIGINAL_QUERY not in scope:
                    scope = before(scope)
                # A mounted application sees the mark of the one that it is mounted in, and is left alone.
                if scope["type"] in {"websocket", "http"} and ORIGINAL_QUERY not in scope and _inside(self, recorder):
                    text = scope.get("query_string", b"")
                    scope = dict(scope, query_string=redactor.query(scope["path"], text), **{ORIGINAL_QUERY: text})
                    if not all(value.isascii() for _, value in scope["headers"]):
                        scope.update({"headers": readable(scope["headers"]), ORIGINAL_HEADERS: scope["headers"]})
            except Exception as error:  # noqa: BLE001 - a request is served whatever telemetry meets
                hooks.failed("the web application's entry", error)
            await original(self, scope, receive, send)

        return call


def readable(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """``headers`` in UTF-8. OpenTelemetry's middleware takes others for Python's escapes, and a stray backslash then fails the request."""
    return [(name, value if _is_utf8(value) else value.decode("latin-1").encode()) for name, value in headers]


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _inside(application: Any, recorder: Recorder) -> bool:
    """Whether RequestMiddleware is in the application's stack, put there if need be (the stack is built once, on first use)."""
    if application.middleware_stack is None:
        application.middleware_stack = application.build_middleware_stack()
    seen, inside = application.__dict__.get(STACK, (None, False))
    if seen is not application.middleware_stack:
        inside = _insert(application.middleware_stack, recorder)
        setattr(application, STACK, (application.middleware_stack, inside))
    return bool(inside)


def _insert(stack: Any, recorder: Recorder) -> bool:
    """Put RequestMiddleware inside the layers that must stay outside it, and quieten the span-per-message noise."""
    layer, outer = stack, None
    while type(layer).__name__ in OUTSIDE and hasattr(layer, "app"):
        if type(layer).__name__ == "OpenTelemetryMiddleware" and not recorder.settings.websocket_spans:
            layer.exclude_receive_span = layer.exclude_send_span = True
        outer, layer = layer, layer.app
    if outer is None:
        recorder.on_drop("hooks", "unknown_middleware_stack", 1)
        return False
    outer.app = RequestMiddleware(layer, recorder)
    return True
