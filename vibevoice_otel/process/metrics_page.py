"""A token and TLS for the SDK's own /metrics, whose exporter has no setting for either.

The launcher has opened the page before instrumentors are asked, with nothing on it yet. It is closed, and opened again at the same
address as the operator wants it; where that fails it stays closed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from vibevoice_otel.process import workers
from vibevoice_otel.web import bearer

if TYPE_CHECKING:
    from vibevoice_otel.settings import Settings

logger = logging.getLogger(__name__)
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def protect(settings: Settings) -> bool:
    """Whether /metrics is served with the token or the certificate that ``settings`` name; False where they name none, or it is not on."""
    token, cert, key = settings.metrics_token, settings.metrics_cert, settings.metrics_key
    if not (token or cert) or workers.EXPORTER not in workers.chosen() or not workers.close_page():
        return False
    import prometheus_client  # noqa: PLC0415 - the page was the exporter's, so it is there

    try:
        httpd, _ = prometheus_client.start_http_server(
            int(os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT") or 9464),
            os.environ.get("OTEL_EXPORTER_PROMETHEUS_HOST") or "localhost",
            prometheus_client.CollectorRegistry(),  # an empty page, until the token stands before the real one
            certfile=cert or None,
            keyfile=key or None,
        )
    except OSError as error:  # ssl.SSLError is one
        logger.error(  # noqa: TRY400 - the sentence says it all
            "/metrics cannot be served with VIBEVOICE_OTEL_METRICS_CERT and VIBEVOICE_OTEL_METRICS_KEY (%s), so there is none.",
            error,
        )
        return False
    page: Wsgi = prometheus_client.make_wsgi_app()
    httpd.set_app(_asking(token, page) if token else page)
    return True


def _asking(token: str, page: Wsgi) -> Wsgi:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if bearer.admits(str(environ.get("HTTP_AUTHORIZATION", "")), token):
            return page(environ, start_response)
        start_response("401 Unauthorized", [("Content-Type", "text/plain"), ("WWW-Authenticate", "Bearer")])
        return [b"/metrics asks for a token (VIBEVOICE_OTEL_METRICS_TOKEN)\n"]

    return app
