"""A canary goes through a real service in every way; everything that leaves the process is searched for it."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.error
from collections.abc import Callable

import pytest

from .harness import Service, Sink, free_port, wait_for

Start = Callable[..., Service]
CANARY = "canary7f3a"


def fed(page: int) -> str:
    """What the live page's feed says within a second to whoever opens it."""
    found, until = b"", time.monotonic() + 1.0
    with socket.create_connection(("127.0.0.1", page), timeout=1) as connection:
        connection.sendall(f"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1:{page}\r\n\r\n".encode())
        connection.settimeout(0.2)
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                found += connection.recv(65536)
    return found.decode(errors="replace")


@pytest.mark.parametrize("semconv", ["", "http/dup"])
def test_nothing_that_leaves_holds_the_text(start: Start, sink: Sink, semconv: str) -> None:
    """Query, voice, cfg, body, header, exceptions: not in OTLP spans or metrics, /metrics, the live page, or any line about a URL."""
    page = free_port()
    service = start(
        OTEL_METRICS_EXPORTER="otlp,prometheus", OTEL_SEMCONV_STABILITY_OPT_IN=semconv, VIBEVOICE_OTEL_PAGE=f"127.0.0.1:{page}",
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=f"{sink.endpoint}/v1/logs",
    )  # fmt: skip
    headers = {"baggage": f"x={CANARY}", "tracestate": "a=b"}
    for query in ({"text": f"say {CANARY}"}, {"text": "x", "voice": CANARY}, {"text": "x", "cfg": CANARY}, {"txt": CANARY}):
        service.speak(1, headers=headers, **query)
    assert wait_for(lambda: sink.roots()["success"] == 4), service.log
    service.speak(1, text=CANARY, fail=1)
    assert service.post("/speak", CANARY) == 500
    with pytest.raises(urllib.error.HTTPError):
        service.get(f"/stream?text={CANARY}")
    assert wait_for(lambda: sum(sink.roots().values()) == 5), service.log
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests") == 5)
    time.sleep(0.5)
    told = sink.all_text()
    assert "exception.stacktrace" in told
    assert CANARY not in told
    assert CANARY not in service.metrics()
    seen = fed(page)
    assert "en-" in seen or "other" in seen, "the page has shown the requests"
    assert CANARY not in seen
    # What uvicorn prints of the service's own exceptions is the service's own; no line about a URL, and none of ours, has it.
    lines = [line for line in service.log.splitlines() if CANARY in line]
    assert all(line.startswith(("ValueError: cannot say", "LookupError: no phonemes")) for line in lines), lines
