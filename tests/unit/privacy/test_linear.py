"""Nothing that comes from outside costs more than its length."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context

from vibevoice_otel import failures, traceparent
from vibevoice_otel.page import guard
from vibevoice_otel.privacy import exceptions, layers, logs, query
from vibevoice_otel.recording import assembler
from vibevoice_otel.recording.timeline import Asked
from vibevoice_otel.routes import SpeechRoutes
from vibevoice_otel.web import bearer, ends

REDACTOR = query.Redactor(("/stream",), lambda name: name == "en-Emma_woman")
HIDE = logs.HideQuery(REDACTOR.query)


def _log_line(line: str) -> None:
    HIDE.filter(logging.LogRecord("uvicorn.access", logging.INFO, "", 0, "%s", (line,), None))


def _page(header: str) -> None:
    guard.host_allowed(header, ("tts.example.org",))
    guard.same_origin({"origin": header, "host": header})
    guard.security_headers(header, "")


def _asked(raw: bytes) -> None:
    asked = query.asked(raw, keep_text=False)
    for value in (asked.voice, asked.cfg, asked.steps):
        assembler._differing(value, 1.5)


#: Everything of ours that reads bytes or characters from outside.
TEXTS: dict[str, Callable[[str], object]] = {
    "a log line": _log_line,
    "the page's Host and Origin": _page,
    "a bearer token": lambda text: bearer.admits(f"Bearer {text}", "secret"),
    "a path": lambda text: text in SpeechRoutes(("/stream", "/v2/stream")),
    "a status's description": exceptions._type_only,
    "an exception's message": lambda text: failures.stack(ValueError(text)),
}
BYTES: dict[str, Callable[[bytes], object]] = {
    "the query of a speech request": lambda raw: REDACTOR.query("/stream", raw),
    "the query of another request": lambda raw: REDACTOR.query("/other", raw),
    "what is asked for": _asked,
    "a traceparent in the query": lambda raw: traceparent.adopt(raw, [(b"host", raw)]),
    "a header's encoding": lambda raw: layers.readable([(b"x", raw)]),
    "the caller's context": lambda raw: ends.caller(
        {"headers": [(name, raw) for name in (b"traceparent", b"tracestate", b"baggage")]}, Context()
    ),
    "baggage": lambda raw: ends.mark(Asked(), {"headers": [(b"baggage", raw)]}),
}
#: What makes a careless expression try every place, or every length at every place.
SHAPES = (
    '/x?a"{}b', "/x?{}b", "{}a", '{}"', "{}?", "{}'", "{}%", "{}&", "{}=", "{}%41", "{}%zz&",
    "{}text=", "{};text=", "{}a=b&", "{}%74ext=%&",
    "voice={}%2", "cfg={}1", "cfg={}1e", "{}traceparent=00-", "{}00-0", "{}a:", "{}[", "{}1.", "{},synthetic=", "{} ",
    "{}\u00e9",
)  # fmt: skip
#: Characters, each doubled: a square shows at the small end in seconds, at the large end a slighter excess does.
SIZES = (1 << 14, 1 << 19)
#: Seconds below which a doubling is not judged, for there caches decide. The square of a megabyte, at one byte a cycle,
#: takes 300.
FLOOR = 0.05


def _cost(parse: Callable[..., object], value: object) -> float:
    """Seconds of this thread's CPU: the least of three, because other work on the machine only ever adds."""
    least = float("inf")
    for _ in range(3):
        began = time.thread_time()
        parse(value)
        least = min(least, time.thread_time() - began)
        if not FLOOR / 10 < least < 1:
            break
    return least


@pytest.mark.serial
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("what", [*TEXTS, *BYTES])
def test_twice_the_length_costs_twice_the_time(what: str, shape: str) -> None:
    """Up to 1 MB twice of what a client sends costs at most 2.5 times the CPU, whatever it is made of."""
    head, _, unit = shape.partition("{}")
    for size in SIZES:
        once, twice = (
            _cost(TEXTS[what], text) if what in TEXTS else _cost(BYTES[what], text.encode())
            for text in (head + unit * (length // len(unit)) for length in (size, 2 * size))
        )
        assert twice <= 2.5 * max(once, FLOOR), f"{2 * size} characters: {twice:.3f} s, half of them: {once:.3f} s"


@given(st.text("ab/?\"'<> &=%;\n", max_size=30))
def test_a_log_line_is_hidden_as_far_as_before(line: str) -> None:
    """That a path is tried from its first character alone changes no line."""
    anywhere = re.compile(r"([^\s\"'<>?]*)\?([^\s\"<>]+)")
    assert [found.groups() for found in logs._URL.finditer(line)] == [
        found.groups() for found in anywhere.finditer(line)
    ]
