"""The spoken text is nowhere: not in spans, events, statuses, metrics, nor in the servers' log lines."""

from __future__ import annotations

import logging
from urllib.parse import quote_plus

import pytest
from fastapi import FastAPI
from opentelemetry import baggage, trace

from tests.support.pipeline import caller, pipeline, speaking_app
from vibevoice_otel.failures import stack
from vibevoice_otel.privacy import exceptions
from vibevoice_otel.privacy.logs import HideQuery
from vibevoice_otel.privacy.query import Redactor
from vibevoice_otel.settings import Settings

CANARY = "canary7f3a"
TEXT = quote_plus(f"say {CANARY} aloud")
WAYS = [
    f"text={TEXT}", f"TEXT={TEXT}&text=x", f"te%78t={TEXT}", f"voice={TEXT}&text=x", f"voice={CANARY}&text=x",
    f"cfg={CANARY}&text=x",
    f"steps={CANARY}&text=x", f"text={TEXT}&fail=1", f"txt={CANARY}", f"{CANARY}", f"{CANARY}=1&text=x",
    f"text=a;{CANARY}", f"text=x&note={TEXT}", f"text=a%26{CANARY}", f"text={TEXT}&traceparent={CANARY}",
]  # fmt: skip


def told(service: object) -> str:
    """Everything that the pipeline exported, as text."""
    spans = "\n".join(span.to_json() for span in service.spans())  # type: ignore[attr-defined]
    return spans + "\n" + service.metrics().to_json()  # type: ignore[attr-defined]


@pytest.mark.parametrize("semconv", ["", "http", "http/dup"])
def test_the_text_is_in_no_span_and_no_metric(semconv: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever parameter it is sent in, and in an exception's message, in both modes of the semantic conventions."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", semconv)
    monkeypatch.setattr(
        "opentelemetry.instrumentation._semconv._OpenTelemetrySemanticConventionStability._initialized", False
    )
    with pipeline() as service:
        answers = service.run(*(way.encode() for way in WAYS), headers=[(b"baggage", f"x={CANARY}".encode())])
        assert sum(answer.error is not None for answer in answers) == 1, "the service's own exception is its own affair"
        text = told(service)
        assert "exception" in text
        assert "REDACTED" in text
        assert CANARY not in text


def test_capture_puts_the_text_on_the_request_alone() -> None:
    """With VIBEVOICE_OTEL_CAPTURE_TEXT it stands on vibevoice.synthesize as vibevoice.text, and neither in the URL nor
    in exceptions.
    """
    with pipeline(settings=Settings(capture_text=True)) as service:
        service.run(f"text={TEXT}".encode(), f"text={TEXT}&fail=1".encode())
        where = {
            (s.name, key)
            for s in service.spans()
            for key, value in (s.attributes or {}).items()
            if CANARY in str(value)
        }
        assert where == {("vibevoice.synthesize", "vibevoice.text")}
        assert not any(CANARY in str(event.attributes) for span in service.spans() for event in span.events)
        assert not any(CANARY in str(span.status.description) for span in service.spans())


def test_an_exception_keeps_its_type_and_its_place() -> None:
    """What is hidden is the message; where it was raised, and what caused it, is told."""
    with pipeline() as service:
        service.run(f"text={TEXT}&fail=1".encode())
        server = next(span for span in service.spans() if span.kind is trace.SpanKind.SERVER)
        events = [event for event in server.events if event.name == "exception"]
        assert events
        attributes = events[0].attributes or {}
        assert attributes["exception.type"] == "RuntimeError"
        assert "pipeline.py" in str(attributes["exception.stacktrace"])
        assert "RuntimeError: (hidden" in str(attributes["exception.stacktrace"])


def test_a_span_of_the_services_own_is_covered_while_it_serves() -> None:
    """A child span made by the service inside a request hides messages too; outside a request a program's spans are its
    own.
    """
    app = speaking_app()

    @app.get("/work")
    def work() -> None:
        with trace.get_tracer("service", tracer_provider=service.provider).start_as_current_span("own"):
            raise ValueError(f"bad {CANARY}")

    with pipeline(app=app) as service:
        service.run(b"text=x")
        call(app, "/work")
        assert CANARY not in told(service)
        with (
            pytest.raises(ValueError, match="plain"),
            service.provider.get_tracer("program").start_as_current_span("outside"),
        ):
            raise ValueError("plain")
        assert "plain" in told(service)


def test_a_fault_in_the_hiding_hides_the_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where our own look at an exception or a span fails, the message is left out, not let through."""

    def broken(*_args: object) -> str:
        raise RuntimeError

    for name in ("stack", "_serving"):
        with monkeypatch.context() as patch, pipeline() as service:
            patch.setattr(exceptions, name, broken)
            with service.provider.get_tracer("service").start_as_current_span("own") as span, patch.context() as inner:
                inner.setattr(exceptions, "_private", [span])
                span.record_exception(ValueError(f"bad {CANARY}"))
                span.set_status(trace.Status(trace.StatusCode.ERROR, f"ValueError: bad {CANARY}"))
            exported = service.spans()[-1].to_json()
            assert CANARY not in exported, name
            assert "exception.type" in exported


def call(app: FastAPI, path: str, headers: dict[str, str] | None = None) -> None:
    from starlette.testclient import TestClient

    TestClient(app, raise_server_exceptions=False).get(path, headers=headers)


def test_stacks_end() -> None:
    """A chain of causes that is a circle, or very long, makes a stack all the same."""
    first, second = ValueError(CANARY), KeyError(CANARY)
    first.__cause__, second.__cause__ = second, first
    assert CANARY not in stack(first)
    link: BaseException = ValueError(CANARY)
    for _ in range(1000):
        later = ValueError(CANARY)
        later.__cause__ = link
        link = later
    assert len(stack(link)) < 10_000


REDACT = Redactor(("/stream",), lambda name: name == "en-Emma_woman").query


@pytest.mark.parametrize(
    ("path", "query", "shown"),
    [
        (
            "/stream",
            b"text=a+b&voice=en-Emma_woman&cfg=1.5&steps=5",
            b"text=REDACTED&voice=en-Emma_woman&cfg=1.5&steps=5",
        ),
        ("/stream", b"voice=secret&cfg=nan&steps=secret", b"voice=REDACTED&cfg=nan&steps=REDACTED"),
        ("/stream", b"secret", b"REDACTED"),
        ("/api/stream", b"other=secret", b"REDACTED"),
        ("/elsewhere", b"other=fine&text=secret", b"other=fine&text=REDACTED"),
        ("/stream", b"", b""),
        ("/stream", b"%ff%fe=secret&voice=%ff", b"REDACTED&voice=REDACTED"),
    ],
)
def test_what_of_a_query_is_told(path: str, query: bytes, shown: bytes) -> None:
    """On a speech route only numbers and known voices; elsewhere all but the text."""
    assert REDACT(path, query) == shown


def _printed(name: str, message: str, *args: object) -> str:
    record = logging.LogRecord(name, logging.INFO, "file", 1, message, args, None)
    assert HideQuery(REDACT).filter(record)
    return record.getMessage()


def test_access_logs() -> None:
    """Uvicorn's HTTP and WebSocket lines, gunicorn's atoms: the text is hidden, everything else as it was."""
    http = _printed(
        "uvicorn.access", '%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", f"/stream?text={TEXT}&cfg=1.5", "1.1", 200
    )
    assert http == '127.0.0.1:1 - "GET /stream?text=REDACTED&cfg=1.5 HTTP/1.1" 200'
    socket = _printed("uvicorn.error", '%s - "WebSocket %s" [accepted]', "127.0.0.1:1", f"/stream?voice={CANARY}")
    assert socket == '127.0.0.1:1 - "WebSocket /stream?voice=REDACTED" [accepted]'
    atoms = {
        "r": f"GET /stream?text={TEXT} HTTP/1.1",
        "q": f"text={TEXT}",
        "U": "/stream",
        "f": f"http://x/stream?text={TEXT}",
        "s": 200,
    }
    line = _printed("gunicorn.access", "%(r)s %(q)s %(U)s %(f)s %(s)s", atoms)
    assert line == "GET /stream?text=REDACTED HTTP/1.1 text=REDACTED /stream http://x/stream?text=REDACTED 200"
    assert atoms["q"] == f"text={TEXT}", "the server's own are left alone"
    assert _printed("uvicorn.error", "Started server process [%d]", 5) == "Started server process [5]"


def test_a_line_that_cannot_be_cleaned_is_left_out() -> None:
    """A fault in the filter never prints what it was to hide."""

    def broken(_path: str, _query: bytes) -> bytes:
        raise RuntimeError

    record = logging.LogRecord("uvicorn.access", logging.INFO, "file", 1, f"/stream?text={CANARY}", (), None)
    assert HideQuery(broken).filter(record)
    assert CANARY not in record.getMessage()


def test_what_comes_from_outside_is_bounded() -> None:
    """A flood of trace state and baggage leaves spans with at most the 32 members that the specification allows, and
    the service, which sees the baggage and hands it on, with at most 180 members of 8,192 bytes together; none of it is
    in what is exported.
    """
    app, seen = speaking_app(), dict[str, object]()

    @app.get("/baggage")
    def look() -> None:
        seen.update(baggage.get_all())

    for flood in (
        ",".join(f"k{n}=v{n}" for n in range(500)),
        "k=" + "v" * 100_000,
        ",".join(f"k{n}={'v' * 100}" for n in range(170)),
    ):
        headers = [*caller(sampled=True), (b"tracestate", flood.encode()), (b"baggage", flood.encode())]
        with pipeline(app=app) as service:
            seen.clear()
            service.run(b"text=a", headers=headers)
            call(app, "/baggage", {name.decode(): value.decode() for name, value in headers})
            assert all(len(span.get_span_context().trace_state) <= 32 for span in service.spans())  # type: ignore[union-attr]
            assert "v499" not in told(service)
            assert "vvv" not in "".join(
                span.to_json() for span in service.spans() if not span.get_span_context().trace_state
            )  # type: ignore[union-attr]
        assert len(seen) <= 180
        assert sum(len(f"{key}={value}") for key, value in seen.items()) <= 8192
