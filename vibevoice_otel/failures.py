"""A failure of our own: counted always, logged once for each place, never with what an exception says,
never passed on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

logger = logging.getLogger(__name__)
HIDDEN = "(hidden: it may quote the spoken text)"
#: Exceptions named in one stack: a chain of causes may be long, or a circle.
MAX_CHAIN = 20
_logged: set[str] = set()
P = ParamSpec("P")
T = TypeVar("T")


def failed(
    on_drop: Callable[[str, str, int], None],
    where: str,
    error: BaseException,
    what: str = "hooks",
    reason: str = "hook_error",
    count: int = 1,
) -> None:
    """Telemetry failed at ``where``; the service is served all the same. ``what``, ``reason`` and ``count`` are told to
    ``on_drop``.
    """
    with contextlib.suppress(Exception):
        on_drop(what, reason, count)
    warn_once(where, error)


def attempt(
    on_drop: Callable[[str, str, int], None], where: str, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T | None:
    """What ``act`` returns; None where it failed, as :func:`failed` tells: the service is served all the same."""
    try:
        return act(*args, **kwargs)
    except Exception as error:  # noqa: BLE001
        failed(on_drop, where, error)
        return None


def warn_once(where: str, error: BaseException) -> None:
    """Log that telemetry failed at ``where``, the first time only."""
    with contextlib.suppress(Exception):
        if where not in _logged:
            _logged.add(where)
            logger.warning(
                "telemetry failed in %s and goes on without it; further failures there are only counted\n%s",
                where,
                stack(error),
            )


def start_thread(name: str, run: Callable[[], object]) -> threading.Thread | None:
    """A thread that does ``run``; None where the system refuses one. That is logged once; the caller asks again."""
    thread = threading.Thread(target=run, name=f"vibevoice-otel-{name}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        warn_once(f"starting the thread {thread.name}", error)
        return None
    return thread


def stack(error: BaseException) -> str:
    """The stack of ``error`` and its causes as Python prints it: files, lines and types, but no message."""
    parts: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < MAX_CHAIN:
        seen.add(id(link))
        frames = traceback.format_tb(link.__traceback__)
        head = "Traceback (most recent call last):\n" if frames else ""
        parts.append(f"{head}{''.join(frames)}{type(link).__qualname__}: {HIDDEN}\n")
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\nwhich led to\n\n".join(reversed(parts))
