"""What a forked child must renew. One handler for the whole process, on weak references: it keeps nothing alive and
never grows stale.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

from vibevoice_otel import failures

#: In the order of registration: an object and what is called with it, or a function and nothing.
_renewed: weakref.WeakKeyDictionary[Any, list[Callable[[Any], object]]] = weakref.WeakKeyDictionary()


def renew_in_child(renew: Callable[[], object]) -> None:
    """Have ``renew`` called in each forked child, as long as the object that it is bound to lives (or the function
    itself).

    The child has none of the parent's threads, so a lock that one of them held is never released: ``renew`` replaces
    its object's locks, and acquires none.
    """
    owner = getattr(renew, "__self__", None)
    if owner is None:
        _renewed[renew] = [lambda function: function()]
    else:
        _renewed.setdefault(owner, []).append(renew.__func__)  # type: ignore[attr-defined]


def begin(renew: Callable[[], object]) -> None:
    """Call ``renew`` now, and in each forked child (:func:`renew_in_child`), which begins as its parent did."""
    renew()
    renew_in_child(renew)


def _in_child() -> None:
    for owner, functions in list(_renewed.items()):
        for function in functions:
            try:
                function(owner)
            except Exception as error:  # noqa: BLE001, PERF203 - the others are renewed all the same, and the host's child goes on
                failures.warn_once(f"renewing {type(owner).__qualname__} after a fork", error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
