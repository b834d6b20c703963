"""Exceptions without what they say: a message may quote the spoken text, the type and the place cannot.

Instrumentations record an exception on the SERVER span with its message and its stack, and put the message into the
span's status. For the spans of a web request, and for those made while one is served, both are written without messages
here.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from opentelemetry.trace import Span, Status

from vibevoice_otel import forking
from vibevoice_otel.failures import HIDDEN, MAX_CHAIN, stack
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.timeline import thread

_private: weakref.WeakSet[Any] = weakref.WeakSet()
_serving: ContextVar[bool] = ContextVar("vibevoice_otel_serving", default=False)
#: Attribute of an exception that came out of a served request: what logs it later does so outside of any.
OF_REQUEST = "_vibevoice_otel_of_request"


class _Served:
    """How many blocks of :func:`protected` are open, in all threads."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []
        forking.begin(self._begin_anew)

    def _begin_anew(self) -> None:
        """The blocks of a parent's other threads never end in its child; what is open on the forking thread is let go
        with them.
        """
        self._lock = threading.Lock()
        self._open = 0

    def enter(self) -> None:
        with self._lock:
            self._open += 1

    def leave(self) -> None:
        with self._lock:
            self._open = max(0, self._open - 1)
            if self._open or not self._waiting:
                return
            waiting, self._waiting = self._waiting, []
        for each in waiting:
            each()

    def when_none(self, do: Callable[[], None]) -> None:
        with self._lock:
            if self._open:
                self._waiting.append(do)
                return
        do()


_served = _Served()
#: Call a function once no request is served: at once, or when the last of them ends, on its thread.
when_none_is_served = _served.when_none


@contextmanager
def protected(span: Span) -> Iterator[None]:
    """Let no exception's message onto ``span``, nor onto any that records one before the block ends, nor that of one
    that ends it.
    """
    _private.add(span)
    token = _serving.set(True)
    _served.enter()
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # a kind without attributes
            setattr(error, OF_REQUEST, True)
        raise
    finally:
        _serving.reset(token)
        _served.leave()


def attach(hooks: Hooks, module: ModuleType) -> None:
    """Hook the SDK's Span."""
    part = "the hiding of exception messages (they may quote the spoken text)"
    hooks.replace(module.Span, "record_exception", _record_exception, part)
    hooks.replace(module.Span, "set_status", _set_status, part)


def _is_private(span: Any) -> bool:
    try:
        return _serving.get() or thread.timeline is not None or span in _private
    except Exception:  # noqa: BLE001 - a span of a foreign kind: what cannot be known is not told
        return True


def is_private_error(error: BaseException) -> bool:
    """Whether ``error`` may quote the spoken text: it is looked at while a request is served, or it came out of one."""
    if _serving.get() or thread.timeline is not None:
        return True
    links: list[BaseException] = [error]
    for link in links:  # grows by each one's causes and, of a group, its members
        if getattr(link, OF_REQUEST, False) or len(links) > MAX_CHAIN:  # of what is too long to be read nothing is told
            return True
        nearest = (link.__cause__, link.__context__, *getattr(link, "exceptions", ()))
        links += [each for each in nearest if each is not None and not any(each is known for known in links)]
    return False


def _stack(error: BaseException) -> str:
    try:
        return stack(error)
    except Exception:  # noqa: BLE001 - an exception that cannot be looked at; its own words would be recorded in place of these
        return HIDDEN


def _record_exception(
    original: Callable[..., Any],
    span: Any,
    /,
    exception: BaseException,
    attributes: Any = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    if _is_private(span):
        attributes = {**(attributes or {}), "exception.message": HIDDEN, "exception.stacktrace": _stack(exception)}
    return original(span, exception, attributes, *args, **kwargs)


def _set_status(original: Callable[..., Any], span: Any, /, status: Any, description: str | None = None) -> Any:
    if _is_private(span):
        if isinstance(status, Status):
            status = Status(status.status_code, _type_only(status.description))
        description = _type_only(description)
    return original(span, status, description)


def _type_only(description: str | None) -> str | None:
    """``ValueError: what it says`` is how the API describes an exception; what comes before the colon is its type."""
    return None if description is None else description.partition(":")[0][:256]
