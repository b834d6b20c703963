"""Puts RequestMiddleware into any Starlette or FastAPI application of the process, without its knowledge.

ServerErrorMiddleware  >  OpenTelemetry's middleware, if any  >  RequestMiddleware  >  the application's own
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.privacy.layers import is_layer
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.warmup import startup
from vibevoice_otel.traceparent import adoption
from vibevoice_otel.web.ends import App, Message, Receive, Scope, Send
from vibevoice_otel.web.middleware import ARRIVED, RequestMiddleware

if TYPE_CHECKING:
    from vibevoice_otel.deferred import DeferredRecorder

#: Attribute of an application: the middleware stack that we have seen.
STACK = "_vibevoice_otel_stack"
#: Layers of a stack that are looked at.
MAX_LAYERS = 100
#: Layers that stay outside ours, beside OpenTelemetry's: error pages, and what contrib puts inside its own.
OUTSIDE = ("ServerErrorMiddleware", "ExceptionHandlerMiddleware")


class WebAdapter:
    """Attaches when starlette.applications is imported.

    Args:
        recorder: where timelines are opened.
        starting: called when an application starts, before anything of its own runs.
        before: sees every scope (the application's life span too) before anything else, and returns the one to go on
            with.
    """

    def __init__(
        self,
        recorder: DeferredRecorder,
        before: Callable[[Scope], Scope] | None = None,
        starting: Callable[[], None] | None = None,
    ) -> None:
        self._recorder = recorder
        self._before = before
        self._starting = starting
        self._applications: weakref.WeakSet[Any] = weakref.WeakSet()
        self.hooks = Hooks("web", recorder.on_drop)

    def instrument(self) -> None:
        self.hooks.on_undo(self._leave)
        self.hooks.on_import("starlette.applications", self._attach)
        if self._recorder.settings.query_traceparent:
            adoption.begin(self)
            self.hooks.on_undo(lambda: adoption.end(self))

    def _leave(self) -> None:
        """Leave every application that was seen, also one that is serving: its stack is linked past our layer, and no
        other is touched.
        """
        for application in list(self._applications):
            application.__dict__.pop(STACK, None)
            _unlink(application.middleware_stack, lambda layer: layer.recorder is self._recorder)

    def _attach(self, module: ModuleType) -> None:
        self.hooks.replace(module.Starlette, "__call__", self._call, "first-audio latency and every socket's end")

    async def _call(
        self, original: Callable[..., Any], application: Any, /, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            if self._before is not None and ARRIVED not in scope:
                scope = self._before(scope)
            if scope["type"] == "lifespan" and self._starting is not None:
                self._starting()
            if scope["type"] in {"websocket", "http"}:
                scope.setdefault(ARRIVED, now())
                self._enter(application)
        except Exception as error:  # noqa: BLE001 - a request is served whatever telemetry meets
            self.hooks.failed("the web application's entry", error)
        if scope["type"] == "lifespan":
            await _start_up(functools.partial(original, application), scope, receive, send)
        else:
            await original(application, scope, receive, send)

    def _enter(self, application: Any) -> None:
        """Put RequestMiddleware into the application's stack if it is not there (the stack is built once, on first
        use).
        """
        if application.middleware_stack is None:
            application.middleware_stack = application.build_middleware_stack()
        if application.__dict__.get(STACK) is not application.middleware_stack:
            self._insert(application.middleware_stack)
            setattr(application, STACK, application.middleware_stack)
            self._applications.add(application)

    def _insert(self, stack: Any) -> None:
        """Put RequestMiddleware right inside the outermost of OpenTelemetry's layers, else inside the error pages."""
        _unlink(stack, lambda layer: layer.recorder.gone)  # of an earlier time, where it could not be reached
        chain = _chain(stack)
        inside = next((index for index, layer in enumerate(chain) if is_layer(layer)), -1) + 1
        while inside < len(chain) and type(chain[inside]).__name__ in OUTSIDE:
            inside += 1
        if not 0 < inside < len(chain):
            self._recorder.on_drop("hooks", "unknown_middleware_stack", 1)
            return
        chain[inside - 1].app = RequestMiddleware(chain[inside], self._recorder)


async def _start_up(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the life span of ``app``: until it says that it is ready, what it speaks is its own warm-up."""
    with contextlib.ExitStack() as starting:
        startup.begun()
        starting.callback(startup.done)

        async def observed(message: Message) -> None:
            if message["type"].startswith("lifespan.startup."):
                starting.close()
            await send(message)

        await app(scope, receive, observed)


def _unlink(stack: Any, leaves: Callable[[RequestMiddleware], bool]) -> None:
    """Link a stack past those of our layers that leave."""
    for outer in _chain(stack):
        layer = getattr(outer, "app", None)
        if isinstance(layer, RequestMiddleware) and leaves(layer):
            outer.app = layer.app


def _chain(stack: Any) -> list[Any]:
    """The layers of a stack, from outside in."""
    chain = [stack]
    while hasattr(chain[-1], "app") and len(chain) < MAX_LAYERS:
        chain.append(chain[-1].app)
    return chain
