"""A canary goes through a real service in every way; everything that leaves the process is searched for it."""

from __future__ import annotations

import socket
import sys
import urllib.error
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tools.ports import free_port

from .harness import PATIENCE, ROOT, Service, Sink, wait_for

Start = Callable[..., Service]
CANARY = "canary7f3a"
TEXT = f"say {CANARY} aloud"
#: Every parameter that a client may put his text into.
WAYS: tuple[dict[str, str], ...] = (
    {"text": TEXT}, {"TEXT": TEXT}, {"text": "x", "voice": CANARY}, {"text": "x", "voice": TEXT},
    {"text": "x", "cfg": CANARY},
    {"text": "x", "steps": CANARY}, {"txt": CANARY}, {CANARY: "1"}, {"text": "x", "traceparent": CANARY},
)  # fmt: skip
REFUSED = 2  # plain HTTP on the WebSocket's route
REQUESTS = len(WAYS) + 1 + REFUSED  # and one that fails


def asked(page: int, path: str, method: str = "GET", body: str = "", until: bytes | None = None) -> str:
    """What the live page answers, to its end or up to ``until``."""
    found = b""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{page}\r\nConnection: close\r\n"
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    with socket.create_connection(("127.0.0.1", page), timeout=PATIENCE) as connection:
        connection.sendall(f"{head}{kind}\r\n{body}".encode())
        while (until is None or until not in found) and (part := connection.recv(65536)):
            found += part
    return found.decode(errors="replace")


def page_says(page: int) -> str:
    """Everything that the live page tells whoever asks, error messages included."""
    paths = [
        "/",
        "/api/meta",
        "/api/service",
        f"/{CANARY[:3]}nothing",
        *(f"/api/requests/{n}" for n in range(1, REQUESTS + 1)),
    ]
    report = asked(page, "/api/listener", "POST", f'{{"trace": "{CANARY}"}}')
    report += asked(page, "/api/events", until=b'"live"')  # never ends; this comes after all finished requests
    return report + "".join(asked(page, path) for path in paths)


def go_through(service: Service, sink: Sink) -> None:
    """All ways in, successful and failing."""
    headers = {"baggage": f"x={CANARY}", "tracestate": f"a={CANARY}", "x-text": CANARY}
    for query in WAYS:
        service.speak(1, headers=headers, **query)
    assert wait_for(lambda: sink.roots()["success"] == len(WAYS)), service.log
    service.speak(1, headers=headers, text=TEXT, fail=1)
    assert service.post("/speak", TEXT) == 500
    for path in (f"/stream?text={quote(TEXT)}", f"/stream?text={CANARY}&cfg=1.5"):
        with pytest.raises(urllib.error.HTTPError):
            service.get(path)
    assert wait_for(lambda: sum(sink.roots().values()) == REQUESTS), service.log
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests") == REQUESTS)
    assert wait_for(lambda: any(span.name == "POST /speak" for span in sink.spans())), service.log


@pytest.mark.parametrize("semconv", ["", "http", "http/dup"])
def test_nothing_that_leaves_holds_the_text(start: Start, sink: Sink, semconv: str) -> None:
    """Query, voice, cfg, body, header, exceptions: not in OTLP spans or metrics, /metrics, the live page, or any line
    about a URL.
    """
    page = free_port()
    service = start(
        OTEL_METRICS_EXPORTER="otlp,prometheus",
        OTEL_SEMCONV_STABILITY_OPT_IN=semconv,
        VIBEVOICE_OTEL_PAGE=f"127.0.0.1:{page}",
    )
    go_through(service, sink)
    told = sink.all_text()
    assert "exception.stacktrace" in told
    assert CANARY not in told
    assert CANARY not in service.metrics()
    seen = page_says(page)
    assert "other" in seen, "the page has shown the requests"
    assert CANARY not in seen
    # What uvicorn prints of the service's own exceptions is the service's own; no line about a URL, and none of ours,
    # has it.
    lines = [line for line in service.log.splitlines() if CANARY in line]
    assert all(line.startswith(("ValueError: cannot say", "LookupError: no phonemes")) for line in lines), lines
    assert service.log.count("REDACTED") >= REQUESTS


def test_exported_log_lines_hide_it_too(start: Start, sink: Sink) -> None:
    """With OTEL_LOGS_EXPORTER=otlp the server's own lines leave the process: their URLs hide the text, ours do, and so
    do the exceptions that the server logs for the service, by type and stack.
    """
    port = free_port()
    service = start(
        command=(sys.executable, "stopping.py", str(port)),
        port=port,
        OTEL_LOGS_EXPORTER="otlp",
        OTEL_BLRP_SCHEDULE_DELAY="200",
    )
    go_through(service, sink)
    assert wait_for(
        lambda: len([each for each in sink.log_records() if "/stream?" in each.body.string_value]) >= REQUESTS
    )
    records = sink.log_records()
    assert [each for each in records if any(pair.key == "exception.stacktrace" for pair in each.attributes)]
    assert [each for each in records if CANARY in str(each)] == []


def test_with_capture_the_text_is_where_it_is_said_to_be(start: Start, sink: Sink) -> None:
    """VIBEVOICE_OTEL_CAPTURE_TEXT: as vibevoice.text on vibevoice.synthesize, and nowhere else: no URL, metric, page or
    exception.
    """
    page = free_port()
    service = start(
        OTEL_METRICS_EXPORTER="otlp,prometheus",
        VIBEVOICE_OTEL_CAPTURE_TEXT="true",
        VIBEVOICE_OTEL_PAGE=f"127.0.0.1:{page}",
    )
    go_through(service, sink)
    spans = sink.spans()
    where = {(span.name, pair.key) for span in spans for pair in span.attributes if CANARY in str(pair.value)}
    assert where == {(ROOT, "vibevoice.text")}
    assert not any(CANARY in str(event) for span in spans for event in span.events)
    assert not any(CANARY in span.status.message for span in spans)
    assert CANARY not in str(sink.series("vibevoice.streaming.requests"))
    assert CANARY not in service.metrics()
    assert CANARY not in page_says(page)
    lines = [line for line in service.log.splitlines() if CANARY in line]
    assert all(line.startswith(("ValueError: cannot say", "LookupError: no phonemes")) for line in lines), lines
