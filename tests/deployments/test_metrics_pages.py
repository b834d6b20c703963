"""A token or certificate that is set guards every page of OpenTelemetry metrics, however its reader was made."""

from __future__ import annotations

import asyncio
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider

from tests.stack.certificates import self_signed
from vibevoice_otel.process import metrics_page
from vibevoice_otel.process.metrics_page import MetricsPages
from vibevoice_otel.settings import Settings

TOKEN = "a-token-of-this-test"


class Program:
    """A program that makes its pages itself, in whatever order; all of it ends with the test."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._ends: list[Any] = []

    def reader(self) -> None:
        provider = MeterProvider([PrometheusMetricReader(registry=self.registry)])
        provider.get_meter("t").create_counter("spoken").add(1)
        self._ends.append(provider.shutdown)

    def page(self, **options: Any) -> int:
        server, thread = prometheus_client.start_http_server(0, "127.0.0.1", self.registry, **options)
        self._ends.append(lambda: (metrics_page.close(server), thread.join(5)))
        return int(server.server_port)

    def guard(self, **chosen: Any) -> None:
        closed = chosen.pop("closed", False)
        pages = MetricsPages(Settings(**chosen), lambda *_: None, closed=closed)
        pages.instrument()
        self._ends.append(pages.hooks.undo)

    def end(self) -> None:
        for end in reversed(self._ends):
            end()


@pytest.fixture
def program() -> Iterator[Program]:
    made = Program()
    yield made
    made.end()


def fetched(port: int, token: str = "", context: ssl.SSLContext | None = None) -> int:
    scheme = "https" if context else "http"
    request = urllib.request.Request(
        f"{scheme}://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {token}"} if token else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return int(answer.status) if b"spoken_total" in answer.read() else -int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


ORDERS = (
    "reader page guard",
    "page reader guard",
    "page guard reader",
    "reader guard page",
    "guard reader page",
    "guard page reader",
)


@pytest.mark.parametrize("order", ORDERS)
def test_a_token_guards_it_in_whatever_order(program: Program, order: str) -> None:
    """Reader, page and instrument() may come in any order: without the token there are no metrics,
    with it there are.
    """
    port = 0
    for step in order.split():
        done = program.guard(metrics_token=TOKEN) if step == "guard" else getattr(program, step)()
        port = done or port
    assert (fetched(port), fetched(port, "wrong"), fetched(port, TOKEN)) == (401, 401, 200)


def test_a_certificate_guards_a_page_that_is_open_already(program: Program, tmp_path: Path) -> None:
    """The page is encrypted from then on, at the same port; a connection that says nothing keeps nobody waiting."""
    import socket

    program.reader()
    port = program.page()
    cert, key = self_signed(tmp_path)
    program.guard(metrics_cert=str(cert), metrics_key=str(key))
    with socket.create_connection(("127.0.0.1", port)):
        assert fetched(port, context=ssl.create_default_context(cafile=cert)) == 200
    with pytest.raises(OSError):
        fetched(port)


@pytest.mark.parametrize("order", ["page guard reader", "guard reader page"])
def test_a_page_that_comes_too_late_for_the_certificate_is_closed(
    program: Program, tmp_path: Path, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be served in the clear: it is refused, and one line says so."""
    cert, key = self_signed(tmp_path)
    port = 0
    for step in order.split():
        if step == "guard":
            program.guard(metrics_cert=str(cert), metrics_key=str(key), metrics_token=TOKEN)
        else:
            port = getattr(program, step)() or port
    with caplog.at_level(logging.WARNING):
        assert fetched(port, TOKEN) == fetched(port, TOKEN) == 403
    assert len([each for each in caplog.messages if each.startswith("/metrics is closed: ")]) == 1


def test_the_programs_own_certificate_will_do(program: Program, tmp_path: Path) -> None:
    """A page that is encrypted by the program itself is not encrypted again."""
    cert, key = self_signed(tmp_path)
    program.reader()
    port = program.page(certfile=str(cert), keyfile=str(key))
    program.guard(metrics_cert=str(cert), metrics_key=str(key), metrics_token=TOKEN)
    context = ssl.create_default_context(cafile=cert)
    assert (fetched(port, context=context), fetched(port, TOKEN, context)) == (401, 200)


def test_a_hosts_own_page_is_named_and_served(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    """A registry without an OpenTelemetry collector is no business of ours, with a token or with everything closed."""
    port = program.page()
    with caplog.at_level(logging.WARNING):
        program.guard(metrics_token=TOKEN, closed=True)
        assert fetched(port) == fetched(port) == -200
    assert len([each for each in caplog.messages if "is the program's own and keeps its own access" in each]) == 1


def test_a_page_in_the_programs_own_application_asks_too(program: Program) -> None:
    """make_asgi_app, mounted in FastAPI, shows the same metrics."""
    from starlette.testclient import TestClient

    program.guard(metrics_token=TOKEN)
    program.reader()
    client = TestClient(prometheus_client.make_asgi_app(program.registry))
    assert client.get("/").status_code == 401
    assert "spoken_total" in client.get("/", headers={"Authorization": f"Bearer {TOKEN}"}).text


def test_what_was_not_understood_closes_every_page_of_ours(program: Program) -> None:
    """The token may be what was misspelt."""
    program.reader()
    port = program.page()
    program.guard(closed=True)
    assert fetched(port, TOKEN) == 403


def test_uninstrument_gives_the_page_back(program: Program) -> None:
    """The application that the program made is the one that serves again."""
    program.reader()
    port = program.page()
    pages = MetricsPages(Settings(metrics_token=TOKEN), lambda *_: None)
    pages.instrument()
    assert fetched(port) == 401
    pages.hooks.undo()
    assert fetched(port) == 200
    assert asyncio.iscoroutinefunction(prometheus_client.make_asgi_app(program.registry))
