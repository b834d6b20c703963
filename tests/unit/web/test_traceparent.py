"""A traceparent in the query string."""

from __future__ import annotations

import pytest

from vibevoice_otel.traceparent import Caller, adopt

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01".encode()


def test_it_becomes_a_header() -> None:
    """A browser's WebSocket can set no header."""
    headers, caller = adopt(b"text=a%26b&traceparent=" + GOOD + b"&cfg=2", [(b"host", b"x")])
    assert headers == [(b"host", b"x"), (b"traceparent", GOOD)]
    assert caller == Caller(int(TRACE, 16), int(SPAN, 16))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"nonsense",
        GOOD[:-1],
        GOOD + b"0",
        GOOD.upper(),
        GOOD.replace(b"00-", b"ff-", 1),
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01",
        GOOD + b"\r\nx: y",
        GOOD + b"%0d%0a",
    ],
)
def test_what_is_not_valid_is_dropped(value: bytes) -> None:
    """Nothing that is not a traceparent to the letter reaches a header."""
    assert adopt(b"text=a&traceparent=" + value, []) == ([], None)


def test_two_of_them_are_none() -> None:
    """Which one would be meant is unknown."""
    assert adopt(b"traceparent=" + GOOD + b"&traceparent=" + GOOD, []) == ([], None)


def test_a_header_wins() -> None:
    """A client that can set the header has said whose child its request is."""
    own = [(b"traceparent", b"00-11111111111111111111111111111111-2222222222222222-01")]
    assert adopt(b"traceparent=" + GOOD, own) == (own, None)


def test_a_query_without_one_names_nobody() -> None:
    """Not by a value, nor by what is like it."""
    assert adopt(b"text=traceparent&&x=", []) == ([], None)
