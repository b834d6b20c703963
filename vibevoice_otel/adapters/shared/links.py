"""Which request a thread works for, told by an object: never by time or order.

What is made while a request is served (an AudioStreamer, the processor's output) is marked with it. Whoever gets such an object,
on whatever thread, by whatever way it came there, works for that request.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vibevoice_otel.recording.timeline import Timeline

#: Attribute of a marked object.
REQUEST = "_vibevoice_otel_request"
#: Objects looked at in one argument: a processor's output has about ten.
MOST = 32


class _Shared:
    """Marks an object that two open requests were given: it tells of neither."""


SHARED = _Shared()


def mark(made: Any, timeline: Timeline) -> None:
    """Let ``made``, and what it holds where it is a mapping, tell of ``timeline``."""
    for each in _within(made):
        before = getattr(each, REQUEST, None)
        other = before is not None and before is not timeline and (before is SHARED or bool(before.parts))
        with contextlib.suppress(AttributeError, TypeError):  # a list, a number: they hold no attribute
            setattr(each, REQUEST, SHARED if other else timeline)


def of(marked: Any) -> Timeline | None:
    """The request of one marked object."""
    found = getattr(marked, REQUEST, None)
    return found if isinstance(found, Timeline) else None


def among(arguments: Iterable[Any]) -> set[Timeline]:
    """The open requests of which a call's arguments tell; more than one is as good as none."""
    found = {of(each) for argument in arguments for each in _within(argument)}
    return {each for each in found if each is not None and each.parts}


def _within(argument: Any) -> Iterator[Any]:
    yield argument
    if isinstance(argument, Mapping):
        for _, value in zip(range(MOST), argument.values(), strict=False):
            yield value
