"""Wrappers that isolate the host from hook errors: the measurement is lost, the call is not."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

Failed = Callable[[BaseException], None]
#: Called before the original with what the call works for and the call's arguments; None says that there is nothing to
#: note after it.
Before = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
#: Called after the original with the same, what Before returned, and the result (None where the original raised).
After = Callable[[Any, Any, Any], None]
#: What a call works for, from its first argument: the object whose method it is. None for nothing that is observed.
Find = Callable[[Any], Any]


class Here(Protocol):
    """Says what the calling thread works for (a ``threading.local``)."""

    @property
    def run(self) -> Any:
        """None where the thread works for nothing that is observed."""


class _Call:
    """How far the original got in one call of a hook."""

    __slots__ = ("done", "error", "result")

    def __init__(self) -> None:
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class _Running(threading.local):
    call: _Call | None = None


_running = _Running()


def traced() -> Callable[[], bool]:
    """A function that is false, except where torch.compile reads a hook into a graph: there it is true, and the hook is
    left out.

    Ask for it when a hook is put in; by then whatever is hooked has imported torch.
    """
    torch = sys.modules.get("torch")
    found: Callable[[], bool] = getattr(getattr(torch, "compiler", None), "is_dynamo_compiling", _never)
    return found


def _never() -> bool:
    return False


def noted(
    original: Callable[..., Any],
    before: Before | None,
    after: After | None,
    failed: Failed,
    here: Here,
    find: Find | None = None,
) -> Callable[..., Any]:
    """``original`` with a note made before and after each call that works for something observed: what ``find`` says,
    by default what the thread works for.

    For what every frame calls: it never stands between the caller and the original, so its guard costs less than half
    of :func:`guarded`'s. An empty ``kwargs`` is not unpacked: that costs as much as a note.
    """
    compiling = traced()

    @functools.wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        if compiling():
            return original(*args, **kwargs)
        token = None
        try:
            run = here.run if find is None else find(args[0])
            if run is not None:
                token = True if before is None else before(run, args, kwargs)
        except Exception as error:  # noqa: BLE001 - the call goes on whatever its note meets
            failed(error)
        if token is None or after is None:
            return original(*args, **kwargs) if kwargs else original(*args)
        result = None
        try:
            result = original(*args, **kwargs) if kwargs else original(*args)
            return result
        finally:
            try:
                after(run, token, result)
            except Exception as error:  # noqa: BLE001
                failed(error)

    return replacement


def guarded(
    original: Callable[..., Any], make: Callable[[Any], Callable[..., Any]], failed: Failed
) -> Callable[..., Any]:
    """``make(original)``, but an Exception of the hook's own is given to ``failed`` and not to the caller.

    The original is called once, whatever the hook does: by the hook, or after it has failed. For synchronous functions
    that call the original, if at all, before they return.
    """
    running, compiling = _running, traced()

    @functools.wraps(original)
    def tracked(*args: Any, **kwargs: Any) -> Any:
        call = running.call
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            if call is not None:
                call.error = error
            raise
        if call is not None:
            call.done, call.result = True, result
        return result

    hook = make(tracked)

    @functools.wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        if (
            compiling()
        ):  # a clock or a foreign object would break the graph; it is timed as a whole by what surrounds it
            return original(*args, **kwargs)
        outer, call = running.call, _Call()
        running.call = call
        try:
            return hook(*args, **kwargs)
        except Exception as error:
            if error is call.error:
                raise
            mistake = error
        finally:
            running.call = outer
        failed(mistake)
        if call.error is not None:
            raise call.error
        return call.result if call.done else original(*args, **kwargs)

    return replacement
