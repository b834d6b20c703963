"""How requests end: each row is a promise about status and error.type."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.builders import MS, request
from vibevoice_otel.recording import outcome
from vibevoice_otel.recording.timeline import Timeline


def _set(**values: object) -> Callable[[Timeline], None]:
    def change(t: Timeline) -> None:
        for name, value in values.items():
            setattr(t if hasattr(type(t), name) else t.runs[0], name, value)

    return change


def _blank(t: Timeline) -> None:
    t.asked.blank = True
    t.runs[0].start = t.runs[0].end = t.first_send = None
    t.delivered = 0


def _blank_1011(t: Timeline) -> None:
    _blank(t)
    t.close_code = 1011


REFUSED = {"start": None, "end": None, "first_send": None, "delivered": 0}
CASES = {
    "all went well": (_set(), "success", None),
    "the client closes first, with everything heard": (_set(cancelled=32 * MS, service_closed=None), "success", None),
    "busy": (_set(close_code=1013, **REFUSED), "rejected", "busy"),
    "text too long": (_set(close_code=1009, **REFUSED), "rejected", "websocket_close_1009"),
    "nothing to say": (_blank, "rejected", "empty_text"),
    "the listener leaves": (_set(cancelled=15 * MS, service_closed=None), "cancelled", None),
    "the listener leaves, then the model fails": (
        _set(cancelled=15 * MS, error="RuntimeError"),
        "cancelled",
        None,
    ),
    "the model fails, then the listener leaves": (
        _set(cancelled=31 * MS, error="RuntimeError"),
        "error",
        "RuntimeError",
    ),
    "the model fails and the socket closes 1000": (_set(error="RuntimeError"), "error", "RuntimeError"),
    "a voice is corrupt": (_set(work_error="UnpicklingError", **REFUSED), "error", "UnpicklingError"),
    "the handler fails": (_set(web_error="KeyError"), "error", "KeyError"),
    "the service's own limit": (_set(work_error="TimeoutError", close_code=1011), "timeout", "TimeoutError"),
    "closed as failed, before a text was told": (_blank_1011, "error", "websocket_close_1011"),
    "closed as failed": (_set(close_code=1011), "error", "websocket_close_1011"),
    "not a number": (_set(nan=1), "error", "nan_audio"),
    "all silent": (_set(silent=2), "error", "silent_audio"),
    "some silent": (_set(silent=1), "success", None),
    "no audio at all": (_set(first_send=None, delivered=0, sends=[]), "error", "no_audio"),
    "the listener leaves, and its task is cancelled": (
        _set(web_error="CancelledError", cancelled=15 * MS, service_closed=None),
        "cancelled",
        None,
    ),
    "cancelled by whom nobody saw": (_set(web_error="CancelledError", service_closed=None), "error", "CancelledError"),
    "cancelled after all was said": (_set(web_error="CancelledError"), "success", None),
    "cancelled as the service stops": (
        _set(web_error="CancelledError", service_closed=None, cut_off=True),
        "error",
        "shutdown",
    ),
    "a send finds the peer gone": (
        _set(web_error="WebSocketDisconnect", cancelled=15 * MS, service_closed=None),
        "cancelled",
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_outcome(name: str) -> None:
    """Status and error.type follow from the facts, in this order of precedence."""
    change, status, error = CASES[name]
    t = request()
    change(t)
    assert outcome.decide(t) == (status, error)


TABLE = {
    400: "rejected", 401: "rejected", 403: "rejected", 404: "rejected", 413: "rejected", 422: "rejected",
    429: "rejected", 499: "cancelled", 500: "error", 502: "error", 503: "rejected", 504: "timeout",
    1003: "rejected", 1008: "rejected", 1009: "rejected", 1011: "error", 1012: "error", 1013: "rejected",
    3000: "rejected", 3003: "rejected", 4401: "rejected", 4403: "rejected",
}  # fmt: skip


@pytest.mark.parametrize("code", TABLE)
def test_each_code_has_its_status(code: int) -> None:
    """An HTTP status, or a close before any work, is what the one table says."""
    t = request()
    refused = {"http_status": code} if code < 1000 else {"close_code": code}
    _set(**REFUSED, **refused)(t)
    assert outcome.decide(t)[0] == TABLE[code]


@pytest.mark.parametrize("change", [{"model_ready": False}, {"web_error": "RuntimeError"}])
def test_a_503_without_a_model_or_with_an_exception_is_an_error(change: dict[str, object]) -> None:
    """Only where a model is there and nothing was raised is it the service's limit."""
    t = request()
    _set(**REFUSED, http_status=503, **change)(t)
    assert outcome.decide(t)[0] == "error"


def test_a_refusal_after_work_is_an_error() -> None:
    """What has generated was admitted."""
    t = request()
    _set(http_status=429)(t)
    assert outcome.decide(t) == ("error", "busy")


def test_shutdown_wins() -> None:
    """A process that ends ends its open requests as errors of type shutdown."""
    assert outcome.decide(request(), shutdown=True) == ("error", "shutdown")


@pytest.mark.parametrize("code", [1006, 4000, 4999])
def test_a_close_code_of_a_service_s_own_is_a_failure(code: int) -> None:
    """What no table names says that something went wrong, and which code it was."""
    assert outcome.of_close(code) == ("error", f"websocket_close_{code}")
