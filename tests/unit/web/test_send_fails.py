"""What it means when the server cannot send: the listener has left only where the error says so."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.pipeline import pipeline
from vibevoice_otel import semconv


class ClientDisconnected(Exception):
    """As hypercorn and uvicorn name it."""


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (OSError("peer"), "cancelled", None),
        (ConnectionResetError(), "cancelled", None),
        (TimeoutError(110, "Connection timed out"), "cancelled", None),
        (ClientDisconnected(), "cancelled", None),
        (TimeoutError(), "timeout", "TimeoutError"),
        (TypeError("bytes expected"), "error", "TypeError"),
        (ValueError("a server's bug"), "error", "ValueError"),
        (asyncio.CancelledError(), "error", "CancelledError"),
    ],
    ids=lambda value: repr(value) if isinstance(value, BaseException) else None,
)
def test_a_failed_send(error: BaseException, status: str, error_type: str | None) -> None:
    """Audio was on its way, and the send of the second chunk raised: who is to blame decides what the
    objective counts.
    """
    with pipeline() as observed:
        answer = asyncio.run(observed.ask(b"text=hello", refuses=error))
        observed.flush()
        assert len(answer.audio) == 3200
        assert observed.counted(semconv.REQUESTS.name, "status") == {status: 1}
        assert observed.counted(semconv.ERRORS.name, "error_type") == ({error_type: 1} if error_type else {})
