"""Who may read the page."""

from __future__ import annotations

import pytest

from vibevoice_otel.page import guard


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9465", "localhost:9465", "[::1]:9465", "192.168.1.9", "tts.example.org:1", "LOCALHOST"]
)
def test_an_address_or_a_known_name_is_answered(host: str) -> None:
    """No attacker controls what an address or localhost resolves to."""
    assert guard.host_allowed(host, {"tts.example.org"})


@pytest.mark.parametrize(
    "host", ["evil.example:9465", "", "localhost.evil.example", "127.0.0.1.evil.example", "a b", "x@127.0.0.1", "[::1"]
)
def test_a_name_that_is_not_ours_is_not(host: str) -> None:
    """DNS rebinding comes with the attacker's own name in Host."""
    assert not guard.host_allowed(host, {"tts.example.org"})


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"host": "127.0.0.1:9465"}, True),
        ({"host": "127.0.0.1:9465", "origin": "http://127.0.0.1:9465", "sec-fetch-site": "same-origin"}, True),
        ({"host": "127.0.0.1:9465", "origin": "http://127.0.0.1:8000"}, False),
        ({"host": "127.0.0.1:9465", "origin": "null"}, False),
        ({"host": "127.0.0.1:9465", "origin": "http://evil.example"}, False),
        ({"host": "127.0.0.1:9465", "sec-fetch-site": "cross-site"}, False),
        ({"host": "127.0.0.1:9465", "sec-fetch-site": "same-site"}, False),
    ],
)
def test_only_the_page_itself_may_ask(headers: dict[str, str], allowed: bool) -> None:
    """Another site's page in the same browser reads and posts nothing."""
    assert guard.same_origin(headers) is allowed


def test_the_token_is_compared_whole() -> None:
    """Only the exact bearer token opens, and without one configured none is asked for."""
    assert guard.token_allowed({}, "")
    assert guard.token_allowed({"authorization": "Bearer s3cret"}, "s3cret")
    for wrong in (
        {},
        {"authorization": "Bearer s3cre"},
        {"authorization": "Basic s3cret"},
        {"authorization": "s3cret"},
    ):
        assert not guard.token_allowed(wrong, "s3cret")


def test_no_script_but_our_own_runs() -> None:
    """The policy has no inline script, no eval, no other host; sockets go to the host that the browser named, or the
    configured one.
    """
    headers = dict(guard.security_headers("127.0.0.1", ""))
    policy = headers[b"content-security-policy"].decode()
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "connect-src 'self' ws://127.0.0.1:* wss://127.0.0.1:*;" in policy
    assert "frame-ancestors 'none'" in policy
    named = dict(guard.security_headers("127.0.0.1", "wss://tts.example.org/stream"))[
        b"content-security-policy"
    ].decode()
    assert "connect-src 'self' wss://tts.example.org;" in named
    assert headers[b"x-content-type-options"] == b"nosniff"


def test_a_rate_is_a_burst_and_then_a_trickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that reports without end is held to the rate."""
    at = [100.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: at[0])
    rate = guard.Rate(burst=3, per_second=1.0)
    assert [rate.take() for _ in range(5)] == [True, True, True, False, False]
    at[0] += 1.5
    assert [rate.take() for _ in range(2)] == [True, False]
