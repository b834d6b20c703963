"""Looks at the requests of every Flask application of the process, without its knowledge.

``Flask.__call__`` is what a WSGI server calls, outside whatever the application has put around its ``wsgi_app``.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.candidate import is_served
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.timeline import nobodys, serving
from vibevoice_otel.web.ends import Scope
from vibevoice_otel.web.exchange import http_routes, may_be_speech
from vibevoice_otel.web.tenants import Tenants
from vibevoice_otel.web.wsgi import App, StartResponse, WsgiExchange, scope_of

if TYPE_CHECKING:
    from vibevoice_otel.deferred import DeferredRecorder

#: Key of a request's exchange in its environ.
EXCHANGE = "vibevoice_otel.exchange"
#: Arguments of a WSGI application.
WSGI = 2
PART = "whole requests of Flask"
#: A parameter of a rule: <name>, <converter:name>, <converter(arguments):name>.
_PARAMETER = re.compile(r"<(?:(\w+)(?:\([^<>]*\))?:)?(\w+)>")


def _route(request: Any) -> str | None:
    """The rule that Flask matched, as our routes are written."""
    rule = getattr(getattr(request, "url_rule", None), "rule", None)
    return _PARAMETER.sub(_segment, rule) if isinstance(rule, str) else None


def _segment(parameter: re.Match[str]) -> str:
    return f"{{{parameter[2]}:path}}" if parameter[1] == "path" else f"{{{parameter[2]}}}"


class FlaskAdapter:
    """Attaches when Flask is imported.

    Args:
        recorder: where timelines are opened.
        before: sees a request before anything else.
    """

    def __init__(self, recorder: DeferredRecorder, before: Callable[[Scope], Scope] | None = None) -> None:
        self._recorder = recorder
        self._before = before
        self._known = http_routes(recorder.settings)
        self._tenants = Tenants(recorder.settings)
        self.hooks = Hooks("web", recorder.on_drop)

    def instrument(self) -> None:
        self.hooks.on_import("flask.app", self._attach)

    def _attach(self, module: ModuleType) -> None:
        flask = self.hooks.owner(module, "Flask", PART)
        if flask is not None:
            self.hooks.replace(flask, "__call__", self._call, PART)
            self.hooks.replace(flask, "dispatch_request", self._dispatch, "their SERVER spans")

    def _call(self, original: Callable[..., Iterable[bytes]], flask: Any, *request: Any) -> Iterable[bytes]:
        if len(request) != WSGI:  # uvicorn asks whether this is a factory; what Flask raises is the answer
            return original(flask, *request)
        return self._serve(functools.partial(original, flask), *request)

    def _serve(self, app: App, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        exchange = None
        if not self._recorder.gone and not is_served():
            if not is_instrumentation_enabled():
                with serving(nobodys()):
                    return app(environ, start_response)
            exchange = self.hooks.attempt("the beginning of a request", self._exchange, environ)
        if exchange is None:
            return app(environ, start_response)
        environ[EXCHANGE] = exchange
        return exchange.serve(app, environ, start_response)

    def _exchange(self, environ: dict[str, Any]) -> WsgiExchange | None:
        arrived, scope = now(), scope_of(environ)
        if self._before is not None:
            self._before(scope)
        if not may_be_speech(self._recorder, self._known, scope["path"]):
            return None
        return WsgiExchange(scope, arrived, self._recorder, self._known, self._tenants)

    def _dispatch(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        request: Any = sys.modules["flask.globals"].request
        exchange = request.environ.get(EXCHANGE)
        if exchange is not None:
            exchange.routed(_route(request))
        return original(*args, **kwargs)
