"""What a forked child must renew. One handler for the whole process, on weak references: it keeps nothing alive and never grows stale."""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Callable
from typing import Any

from vibevoice_otel import failures

_renewed: dict[weakref.ref[Callable[[], Any]], None] = {}  # in the order of registration


def renew_in_child(method: Callable[[], Any]) -> None:
    """Have ``method`` called in each forked child, as long as the object that it is bound to lives (or the function itself).

    The child has none of the parent's threads, so a lock that one of them held is never released: ``method`` replaces its object's locks,
    and acquires none.
    """
    reference = weakref.WeakMethod if inspect.ismethod(method) else weakref.ref
    _renewed[reference(method, lambda gone: _renewed.pop(gone, None))] = None


def _in_child() -> None:
    for reference in list(_renewed):
        method = reference()
        if method is not None:
            try:
                method()
            except Exception as error:  # noqa: BLE001 - the others are renewed all the same, and the host's child goes on
                failures.warn_once(f"renewing {method.__qualname__} after a fork", error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
