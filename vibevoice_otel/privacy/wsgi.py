"""OpenTelemetry's WSGI layers (contrib's middleware, and Flask's, which calls it) read a request without the spoken
text.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.privacy.query import Redactor

MODULE = "opentelemetry.instrumentation.wsgi"
PART = "the hiding of the spoken text from OpenTelemetry's spans of WSGI requests"
#: What of an environ holds the whole of a request's target: gunicorn's and werkzeug's, uWSGI's.
TARGETS = ("RAW_URI", "REQUEST_URI")


class WsgiGuard:
    """Hooks the function by which contrib makes attributes of a request.

    Args:
        hooks: where taking the hook out again is remembered.
        redactor: says what of a query string may be told.
    """

    def __init__(self, hooks: Hooks, redactor: Redactor) -> None:
        self._hooks, self._redactor = hooks, redactor

    def instrument(self) -> None:
        self._hooks.on_import(MODULE, self._attach)

    def _attach(self, module: ModuleType) -> None:
        self._hooks.replace(module, "collect_request_attributes", self._collect, PART)

    def _collect(self, original: Callable[..., Any], /, environ: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return original(self._told(environ), *args, **kwargs)

    def _told(self, environ: dict[str, Any]) -> dict[str, Any]:
        """A copy of ``environ`` as it may be told."""
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
        return told
