"""The request as the socket sees it. A plain ASGI class inside OpenTelemetry's, whose SERVER span it continues."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from vibevoice_otel import failures
from vibevoice_otel.privacy import exceptions
from vibevoice_otel.recording.candidate import is_served
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.timeline import current, nobodys, serving
from vibevoice_otel.routes import SpeechRoutes
from vibevoice_otel.web.asgi import AsgiExchange, SocketExchange
from vibevoice_otel.web.ends import App, Receive, Scope, Send
from vibevoice_otel.web.exchange import http_routes, may_be_speech
from vibevoice_otel.web.tenants import Tenants

if TYPE_CHECKING:
    from vibevoice_otel.deferred import DeferredRecorder
    from vibevoice_otel.recording.recorder import Recorder

#: When the outermost application of the process was called with the scope.
ARRIVED = "vibevoice_otel.arrived"


class RequestMiddleware:
    """Looks at each request that may be one of speech.

    Args:
        app: the application inside.
        recorder: where timelines are opened; once it is gone, every request passes.
    """

    def __init__(self, app: App, recorder: Recorder | DeferredRecorder) -> None:
        self.app = app
        self.recorder = recorder
        self._routes = SpeechRoutes(recorder.settings.routes)
        self._tenants = Tenants(recorder.settings)
        self._kinds: dict[str, tuple[type[AsgiExchange], SpeechRoutes]] = {
            "http": (AsgiExchange, http_routes(recorder.settings)),
            "websocket": (SocketExchange, self._routes),
        }

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
        exchange = failures.attempt(self.recorder.on_drop, "the beginning of a request", self._exchange, scope)
        if exchange is None:
            await self.app(scope, receive, send)
        else:
            await exchange.serve(self.app, receive, send)

    def _exchange(self, scope: Scope) -> AsgiExchange | None:
        """The request as it is looked at, where it may be one of speech."""
        if (
            scope["type"] not in self._kinds
            or not may_be_speech(self.recorder, self._routes, scope["path"])
            or _is_further_in(scope)
        ):
            return None
        kind, known = self._kinds[scope["type"]]
        return kind(scope, _arrived(scope), self.recorder, known, self._tenants)


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
