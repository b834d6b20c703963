"""A token and TLS for every page of prometheus_client that shows OpenTelemetry metrics; its exporter has no setting for
either.

A page is ours to guard when its registry holds a collector of opentelemetry-exporter-prometheus, by whatever means its
reader was made: ``OTEL_METRICS_EXPORTER``, ``OTEL_CONFIG_FILE`` or the program itself, before or after us. The registry
is asked at each request. A page without such a collector is the program's own: one line names it, and it is served as
it was.
"""

from __future__ import annotations

import gc
import logging
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.web import bearer

if TYPE_CHECKING:
    from vibevoice_otel.settings import Settings

logger = logging.getLogger(__name__)
PART = "the guard of /metrics"
#: The module of the collector that shows OpenTelemetry's metrics in a registry of prometheus_client.
COLLECTOR = "opentelemetry.exporter.prometheus"
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class MetricsPages:
    """Guards the metrics pages of this process.

    Args:
        settings: the token and the certificate.
        on_drop: told of a hook that fails.
        closed: no page is served: a setting was not understood, which may have been the token.
    """

    def __init__(self, settings: Settings, on_drop: Callable[[str, str, int], None], *, closed: bool = False) -> None:
        self.hooks = Hooks("metrics page", on_drop)
        self._token, self._cert, self._key = settings.metrics_token, settings.metrics_cert, settings.metrics_key
        self._closed = closed
        self._logged: set[str] = set()

    def instrument(self) -> None:
        """Guard the pages that are open, and those that the program opens later."""
        if self._token or self._cert or self._closed:
            self.hooks.on_import("prometheus_client.exposition", self._exposition)
            self.hooks.on_import(
                "prometheus_client.asgi", lambda module: self._made(module, "make_asgi_app", self._asgi)
            )

    def _exposition(self, module: ModuleType) -> None:
        self._made(module, "make_wsgi_app", self._wsgi)
        for server in servers():
            self._server(server)

    def _made(self, module: ModuleType, name: str, guard: Callable[[Any], Any]) -> None:
        """Guard what ``name`` makes from now on, under both names that the package gives it."""

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **kwargs: guard(original(*args, **kwargs))

        for place in (module, sys.modules.get("prometheus_client")):
            if place is not None and hasattr(place, name):
                self.hooks.replace_hot(place, name, make, PART)  # a guard that fails must not open the page

    def _server(self, server: Any) -> None:
        page = server.get_app()
        if page is None or registry_of(page) is None:
            self._tell(f"the page at port {server.server_port} is the program's own and keeps its own access")
            return
        if self._cert and shows_ours(registry_of(page)) and not isinstance(server.socket, ssl.SSLSocket):
            try:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self._cert, self._key)
            except OSError as error:  # ssl.SSLError is one
                close(server)
                logger.error(  # noqa: TRY400 - the sentence says it all
                    "/metrics cannot be served with VIBEVOICE_OTEL_METRICS_CERT and VIBEVOICE_OTEL_METRICS_KEY (%s), "
                    "so there is none.",
                    error,
                )
                return
            # The handshake is the business of the request's own thread, not of the one that accepts.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.set_app(self._wsgi(page))
        self.hooks.on_undo(lambda: server.set_app(page))

    def _wsgi(self, page: Wsgi) -> Wsgi:
        registry = registry_of(page)

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            reader = getattr(environ.get("wsgi.input"), "raw", None)
            encrypted = environ.get("wsgi.url_scheme") == "https" or isinstance(
                getattr(reader, "_sock", None), ssl.SSLSocket
            )
            refusal = self._refusal(registry, str(environ.get("HTTP_AUTHORIZATION", "")), encrypted=encrypted)
            if refusal is None:
                return page(environ, start_response)
            status, says = refusal
            start_response(status, [("Content-Type", "text/plain"), ("WWW-Authenticate", "Bearer")])
            return [says.encode()]

        return app

    def _asgi(self, page: Asgi) -> Asgi:
        registry = registry_of(page)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            given = b"".join(value for name, value in scope.get("headers", ()) if name.lower() == b"authorization")
            refusal = self._refusal(registry, given.decode("latin-1"), encrypted=scope.get("scheme") == "https")
            if refusal is None:
                await page(scope, receive, send)
                return
            status, says = refusal
            headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": int(status[:3]), "headers": headers})
            await send({"type": "http.response.body", "body": says.encode()})

        return app

    def _refusal(self, registry: Any, authorization: str, *, encrypted: bool) -> tuple[str, str] | None:
        """Status and sentence for a request that is refused, None for one that is admitted."""
        if not shows_ours(registry):
            self._tell("a metrics page without OpenTelemetry metrics is the program's own and keeps its own access")
            return None
        if self._closed:
            return "403 Forbidden", "/metrics is closed until the service's configuration file is mended\n"
        if self._cert and not encrypted:
            self._tell(
                "/metrics is closed: the program opened its page without VIBEVOICE_OTEL_METRICS_CERT. Open it after "
                "the reader and before VibeVoiceInstrumentor().instrument(), or by OTEL_METRICS_EXPORTER=prometheus"
            )
            return "403 Forbidden", "/metrics is served encrypted alone (VIBEVOICE_OTEL_METRICS_CERT)\n"
        if self._token and not bearer.admits(authorization, self._token):
            return "401 Unauthorized", "/metrics asks for a token (VIBEVOICE_OTEL_METRICS_TOKEN)\n"
        return None

    def _tell(self, sentence: str) -> None:
        if sentence not in self._logged:
            self._logged.add(sentence)
            logger.warning("%s.", sentence)


def servers() -> list[Any]:
    """Every page server of prometheus_client in this process; no other reference to them exists."""
    exposition = sys.modules.get("prometheus_client.exposition")
    kind = getattr(exposition, "ThreadingWSGIServer", None)
    return [] if kind is None else [each for each in gc.get_objects() if issubclass(type(each), kind)]


def registry_of(page: Any) -> Any | None:
    """The registry that an application made by prometheus_client shows; None for another application."""
    names = getattr(getattr(page, "__code__", None), "co_freevars", ())
    cells = dict(zip(names, getattr(page, "__closure__", None) or (), strict=False))
    return cells["registry"].cell_contents if "registry" in cells else None


def shows_ours(registry: Any) -> bool:
    """Whether a registry holds an OpenTelemetry collector; one that cannot be read is taken to hold it."""
    held = getattr(registry, "_collector_to_names", None)
    return held is None or any(type(each).__module__.startswith(COLLECTOR) for each in list(held))


def close_all() -> int:
    """Close the pages of this process that show OpenTelemetry metrics; returns how many there were."""
    found = [
        each
        for each in servers()
        if registry_of(each.get_app()) is not None and shows_ours(registry_of(each.get_app()))
    ]
    for server in found:
        close(server)
    return len(found)


def close(server: Any) -> None:
    """Stop a page and free its port."""
    server.shutdown()
    server.server_close()
