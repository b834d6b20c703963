"""Puts in what hides the spoken text: from URLs, exceptions and log records. It leaves last, after the last request
that it serves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from vibevoice_otel import forking
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.privacy import exceptions, log_records, logs
from vibevoice_otel.privacy.layers import LayerGuard
from vibevoice_otel.privacy.query import Redactor

#: The guard that waits for its last request; there is at most one, for the next one that is put in takes over from it.
_leaving: list[PrivacyGuard] = []
_lock = threading.Lock()


def _renew() -> None:
    global _lock  # noqa: PLW0603 - the module is the object
    _lock = threading.Lock()


forking.renew_in_child(_renew)


class PrivacyGuard:
    """Hides the text while it is in, and after that for as long as a request that began under it is served.

    Args:
        hooks: its own; nothing else is put in by them.
        redactor: says what of a query string may be told.
        message_spans: whether OpenTelemetry's layers keep their span of every WebSocket message.
    """

    def __init__(self, hooks: Hooks, redactor: Redactor, *, message_spans: bool) -> None:
        self.hooks = hooks
        self._redactor = redactor
        self._message_spans = message_spans

    def instrument(self) -> None:
        _leave()
        hooks, redactor = self.hooks, self._redactor
        parts: tuple[tuple[str, Callable[[], None]], ...] = (
            ("access logs", lambda: logs.attach(hooks, redactor.query)),
            ("OpenTelemetry's layers", LayerGuard(hooks, redactor, message_spans=self._message_spans).instrument),
            ("exceptions", lambda: hooks.on_import("opentelemetry.sdk.trace", lambda m: exceptions.attach(hooks, m))),
            ("log records", lambda: log_records.attach(hooks)),
        )
        for what, put_in in parts:
            hooks.attempt(f"the guard of {what}", put_in)  # one that cannot be put in costs itself alone

    def leave(self) -> None:
        """Have the hooks undone when no request is served that began under them."""
        with _lock:
            _leaving.append(self)
        exceptions.when_none_is_served(_leave)


def _leave() -> None:
    with _lock:
        for guard in _leaving:
            guard.hooks.undo()
        _leaving.clear()
