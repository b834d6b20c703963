"""What clients send is never an error of ours."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, WebSocket
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pipeline import Pipeline, pipeline
from vibevoice_otel import semconv
from vibevoice_otel.privacy import query
from vibevoice_otel.recording.timeline import Asked
from vibevoice_otel.traceparent import adopt
from vibevoice_otel.web.ends import mark

parts = st.binary(max_size=60) | st.sampled_from(
    [
        b"text=",
        b"&",
        b"=",
        b"%",
        b"%zz",
        b"traceparent=",
        b"00-",
        b"0" * 32,
        b"-" + b"a" * 16 + b"-01",
        b"voice",
        b"cfg=1",
        b";",
        b"\xff",
    ]
)
queries = st.lists(parts, max_size=12).map(b"".join)
hexadecimal = st.text("0123456789abcdefABCDEFg", min_size=0, max_size=40)
#: Headers that are nearly right, and headers that are anything.
traceparents = (
    st.builds(
        lambda v, t, s, f: f"{v}-{t}-{s}-{f}".encode(),
        st.sampled_from(["00", "01", "ff", ""]),
        hexadecimal,
        hexadecimal,
        hexadecimal,
    )
    | st.binary(max_size=80)
    | st.just(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
)
REDACTOR = query.Redactor(("/stream",), lambda _name: False)


@settings(deadline=None)
@given(queries)
def test_any_query_is_read(raw: bytes) -> None:
    """Bounded facts, no error; nothing of the value is told."""
    asked = query.asked(raw, keep_text=False)
    assert asked.text is None
    assert all(value is None or len(value) <= query.MAX_ASKED for value in (asked.voice, asked.cfg, asked.steps))
    told = REDACTOR.query("/stream", raw)
    number = rb"([+-]?[0-9.]{1,12}([eE][+-]?[0-9]{1,3})?|nan|[+-]?inf)"
    allowed = rb"(text=|voice=|cfg=|steps=|voice|cfg|steps)?(REDACTED)?|(cfg|steps)=" + number
    assert all(re.fullmatch(allowed, part, re.IGNORECASE) for part in told.split(b"&")) or not raw, told


@settings(deadline=None)
@given(
    st.text(alphabet=st.characters(min_codepoint=97, max_codepoint=122), min_size=8, max_size=20),
    st.binary(max_size=20),
)
def test_the_text_is_hidden_whatever_surrounds_it(secret: str, noise: bytes) -> None:
    """Anywhere in a speech request's query, but as the name of a parameter that is known."""
    for raw in (
        b"text=" + secret.encode(),
        b"text=" + noise.replace(b"&", b"") + secret.encode(),
        noise + b"&" + secret.encode() + b"=1",
    ):
        assert secret.encode() not in REDACTOR.query("/stream", raw)


@settings(deadline=None)
@given(queries, st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=80)), max_size=5))
def test_any_traceparent_is_taken_or_dropped(raw: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """A valid one becomes a header, anything else is gone; never an error, never two."""
    adopted, caller = adopt(raw, headers)
    after = list(adopted)
    added = len(after) - len(headers)
    assert added in {0, 1}
    assert (caller is not None) == (added == 1)
    if caller is not None:
        assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", after[-1][1])
        assert caller.trace_id
        assert caller.span_id


@given(st.lists(st.tuples(st.sampled_from([b"baggage", b"x"]), st.binary(max_size=200)), max_size=5))
def test_any_baggage_is_read(headers: list[tuple[bytes, bytes]]) -> None:
    """Synthetic or not, never an error."""
    asked = Asked()
    mark(asked, {"headers": headers})
    assert asked.synthetic or not asked.sample


@pytest.fixture(scope="module")
def service() -> Iterator[Pipeline]:
    """The whole pipeline in this process."""
    with pipeline() as made:
        yield made


@pytest.mark.parametrize("name", [b"baggage", b"traceparent", b"tracestate", b"user-agent", b"host", b"x-other"])
@pytest.mark.parametrize("value", [b"\\x\x80", b"\\N{\x80", b"\\u12\xff", b"\xff" * 9000, "日本語".encode()])
def test_a_header_in_no_encoding_is_served(name: bytes, value: bytes) -> None:
    """OpenTelemetry's own middleware fails on some of these and takes the request with it; the service gets the header
    as it came.
    """
    app, seen = FastAPI(), list[bytes]()

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        seen.extend(each for own, each in socket.scope["headers"] if own == name)
        await socket.accept()
        await socket.send_bytes(b"\1\2")
        await socket.close()

    with pipeline(app=app) as observed:
        (answer,) = observed.run(b"text=a", headers=[(name, value)])
        assert answer.error is None
        assert answer.audio == b"\1\2"
        assert seen[-1] == value


@settings(deadline=None, max_examples=150)
@given(
    queries.filter(lambda raw: not re.search(rb"fail|late", raw)),
    st.lists(traceparents, max_size=2),
    st.binary(max_size=100),
)
def test_a_service_speaks_whatever_it_is_sent(
    service: Pipeline, raw: bytes, parents: list[bytes], state: bytes
) -> None:
    """Any query, any traceparents (malformed, several), any trace state and baggage: the listener has his audio, the
    request is counted once and is one trace, and nothing of ours has failed.
    """
    headers = [*((b"traceparent", parent) for parent in parents), (b"tracestate", state), (b"baggage", state)]
    before = service.counted(semconv.REQUESTS.name, "status")
    service.spans_of.clear()
    answer = asyncio.run(service.ask(raw, headers))
    service.flush()
    assert answer.error is None
    assert answer.audio == b"\1\2" * 3200
    assert service.counted(semconv.REQUESTS.name, "status") - before == {"success": 1}
    assert not service.counted(semconv.DROPPED.name, "what")
    roots = [span for span in service.spans() if span.name == semconv.SYNTHESIZE.name]
    assert len(roots) <= 1, "a caller who does not sample has no trace"
    assert len(service.traces()) == len(roots)
