"""The spoken text never leaves the query string."""

from __future__ import annotations

import pytest

from vibevoice_otel.privacy import query


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"text=secret&voice=x", b"text=REDACTED&voice=x"),
        (b"voice=x&text=secret%20words", b"voice=x&text=REDACTED"),
        (b"TEXT=secret", b"TEXT=REDACTED"),
        (b"te%78t=secret", b"text=REDACTED"),
        (b"%74%65%78%74=secret&a=1", b"text=REDACTED&a=1"),
        (b"text=a&text=b", b"text=REDACTED&text=REDACTED"),
        (b"a=1;text=secret", b"a=1;text=REDACTED"),
        (b"text=", b"text=REDACTED"),
        (b"voice=text=x", b"voice=text=x"),
        (b"", b""),
    ],
)
def test_redact(raw: bytes, shown: bytes) -> None:
    """Whatever its position, case or encoding, the text's value is replaced and nothing else is."""
    assert query.redact(raw) == shown


def test_asked_measures_but_does_not_keep_the_text() -> None:
    """Length and blankness are facts; the text is not kept unless asked for."""
    got = query.asked(b"text=hello%20you&voice=v&cfg=1.5&steps=5", keep_text=False)
    assert (got.text_length, got.blank, got.text, got.voice, got.cfg, got.steps) == (9, False, None, "v", "1.5", "5")
    assert query.asked(b"text=hi", keep_text=True).text == "hi"
    assert query.asked(b"text=%20%0A", keep_text=False).blank


def test_what_a_client_asks_for_is_cut() -> None:
    """A megabyte of voice does not reach a span."""
    assert len(query.asked(b"voice=" + b"x" * 10_000, keep_text=False).voice or "") == query.MAX_ASKED
