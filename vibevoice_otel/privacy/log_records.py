"""Exported log records without what the exceptions of a served request say: type and stack stay, the message may quote
the text.

Loggers that an SDK's handler exports (``exc_info``) and FastAPI's own telemetry (``exception``) both turn an exception
into attributes. They are given a stand-in of the same type, with the same stack. What the service prints to its own
console stays as it is.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from vibevoice_otel.failures import HIDDEN, MAX_CHAIN
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.privacy import exceptions

PART = "the hiding of exception messages in exported log records (they may quote the spoken text)"
#: Where the SDK's logger and its handlers for Python's logging stand, by version: module, class, whether it is a
#: handler.
TARGETS = (
    ("opentelemetry.sdk._logs._internal", "Logger", False),
    ("opentelemetry.sdk._logs._internal", "LoggingHandler", True),
    ("opentelemetry.instrumentation.logging.handler", "LoggingHandler", True),
)


def attach(hooks: Hooks) -> None:
    """Hook each of :data:`TARGETS` as its module is imported; one that is not in an SDK's version is left out."""
    for module, name, is_handler in TARGETS:
        hook = _of_handler if is_handler else _of_logger
        hooks.on_import(module, functools.partial(_attach, hooks, name, hook))


def _attach(hooks: Hooks, name: str, hook: Callable[..., Any], module: ModuleType) -> None:
    owner = getattr(module, name, None)
    if isinstance(owner, type):
        hooks.replace(owner, "emit", hook, PART)


def _of_handler(original: Callable[..., Any], handler: Any, /, record: logging.LogRecord) -> Any:
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if error is not None and exceptions.is_private_error(error):
        record = copy.copy(record)
        hidden = stand_in(error)
        record.exc_info, record.exc_text = (type(hidden), hidden, hidden.__traceback__), None
    return original(handler, record)


def _of_logger(original: Callable[..., Any], logger: Any, /, record: Any = None, *args: Any, **kwargs: Any) -> Any:
    error = kwargs.get("exception")
    if error is not None and exceptions.is_private_error(error):
        kwargs["exception"] = stand_in(error)
    inner = getattr(record, "log_record", record)  # the SDK's own kind of record holds the API's
    error = getattr(inner, "exception", None)
    if error is not None and exceptions.is_private_error(error):
        inner.exception = stand_in(error)
    return original(logger, record, *args, **kwargs)


def stand_in(error: BaseException) -> BaseException:
    """An exception of the same name, stack and causes as ``error`` that says nothing."""
    found: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and len(found) < MAX_CHAIN:
        kind = type(link)
        same = type(kind.__name__, (Exception,), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})
        hidden: BaseException = same(HIDDEN).with_traceback(link.__traceback__)
        if found:
            found[-1].__cause__ = hidden
        found.append(hidden)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return found[0]
