"""The page beside a service: it costs nothing when off and can never fail the service."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from vibevoice_otel import __version__, settings, wiring
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.page.server import LivePage
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.settings import Settings
from vibevoice_otel.traceparent import adoption

GOOD = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def make(**changes: Any) -> LivePage:
    chosen = Settings(**{"page": "127.0.0.1:0", **changes})

    def ready() -> Recorder:
        provider = TracerProvider()
        instruments = Instruments(MeterProvider(), __version__, Limits(100, 1000))
        return wiring.recorder(
            chosen, provider, [page.show(provider.get_tracer("t"), instruments, *[lambda _status, _root: None] * 2)]
        )

    page = LivePage(chosen, lambda _what, _reason, _count: None, ready)
    return page


@pytest.fixture
def page() -> Iterator[LivePage]:
    made = make()
    yield made
    made.stop()


def websocket(query: bytes = b"", path: str = "/stream") -> dict[str, Any]:
    return {
        "type": "websocket",
        "path": path,
        "query_string": query,
        "headers": [],
        "scheme": "ws",
        "server": ("127.0.0.1", 8123),
    }


def test_off_nothing_of_it_is_imported() -> None:
    """A service whose operator did not ask for the page pays not even an import."""
    program = (
        "import sys; from vibevoice_otel.instrumentor import VibeVoiceInstrumentor as I; i = I(); "
        "i.instrument(skip_dep_check=True); "
        "i.recorder; print([m for m in sys.modules if m.startswith('vibevoice_otel.page')])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_it_starts_with_the_first_scope_and_stops(page: LivePage) -> None:
    """A supervisor that serves nothing takes no port; the application's life span, the first scope, begins it."""
    assert page.port is None
    page.scope({"type": "lifespan"})
    assert page.port is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/", timeout=60) as answer:
        assert b"VibeVoice live" in answer.read()
    port = page.port
    page.stop()
    until = time.monotonic() + 60
    while time.monotonic() < until:  # stop() waits for the page's thread, but not for ever
        try:
            socket.create_connection(("127.0.0.1", port), timeout=60).close()
        except ConnectionRefusedError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("it listens on")


def test_a_taken_port_is_one_error_that_names_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    """The service goes on without the page, and is told once what to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        page = make(page=address)
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                scope = websocket(b"text=a&traceparent=" + GOOD)
                assert page.scope(scope) is scope  # and nothing of the request is touched
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert f"VIBEVOICE_OTEL_PAGE={address} cannot be served" in record.getMessage()
    assert page.port is None


def test_without_uvicorn_it_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A service under another server is told what the page needs."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    page = make()
    page.start()
    assert "served by uvicorn, which is not installed" in caplog.text
    assert page.port is None


def test_an_open_address_without_a_token_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Reached from other machines, everything that the page shows is open to them."""
    page = make(page="0.0.0.0:0")
    page.start()
    page.stop()
    assert "set VIBEVOICE_OTEL_PAGE_TOKEN" in caplog.text


def test_a_browsers_traceparent_is_taken_only_while_the_page_is_on(page: LivePage) -> None:
    """It is a header for what reads the request's trace; the scope itself does not change."""
    page.scope({"type": "lifespan"})
    scope = websocket(b"text=a&traceparent=" + GOOD)
    assert page.scope(scope) is scope
    assert scope == websocket(b"text=a&traceparent=" + GOOD)
    assert adoption.headers(scope) == [(b"traceparent", GOOD)]
    page.stop()
    assert adoption.headers(scope) == []


def test_the_services_address_is_learnt_from_its_requests(page: LivePage) -> None:
    """The port that the first socket came in on; the browser uses the host that it knows."""
    page.scope(websocket())
    assert page._where == {"scheme": "ws", "host": "", "port": 8123, "path": "/stream"}


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("ws://127.0.0.1:8000/stream", {"scheme": "ws", "host": "127.0.0.1", "port": 8000, "path": "/stream"}),
        (
            "wss://tts.example.org/v2/stream",
            {"scheme": "wss", "host": "tts.example.org", "port": 443, "path": "/v2/stream"},
        ),
        ("ws://[::1]/stream", {"scheme": "ws", "host": "::1", "port": 80, "path": "/stream"}),
    ],
)
def test_a_configured_address_wins(address: str, where: dict[str, Any]) -> None:
    """Behind a proxy only the operator knows how a browser reaches the service."""
    page = make(page_service=address)
    page._learn("ws", "127.0.0.1", 1)
    assert page._where == where


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PAGE", "9465"), ("PAGE_SERVICE", "http://127.0.0.1:8000"), ("PAGE_TEMPO", "http://127.0.0.1:3200/api/traces"),
        ("PAGE_GRAFANA", "127.0.0.1:3000"), ("PAGE_HOSTS", "http://x"), ("PAGE_REQUESTS", "0"), ("PAGE_MEMORY", "x"),
        ("PAGE_LISTENER", "2"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(name: str, value: str) -> None:
    """The variable, the value and what is allowed."""
    (problem,) = settings.read({f"VIBEVOICE_OTEL_{name}": value}).problems
    assert f"VIBEVOICE_OTEL_{name}={value!r} is not valid: allowed is" in problem
