"""Which request a thread works for, told by an object: never by time or order.

What is made while a request is served (an AudioStreamer, the processor's output) is marked with it. A call that
receives such an object, on whatever thread, by whatever way it came there, works for that request.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opentelemetry import context as otel_context

from vibevoice_otel.recording.candidate import REQUEST, Candidate, arrival
from vibevoice_otel.recording.timeline import Timeline, current

#: Objects looked at in one argument: a processor's output has about ten.
MOST = 32


#: Marks an object that two open requests were given: it tells of neither.
SHARED = object()


def mark(made: Any, request: Timeline | Candidate) -> None:
    """Let ``made``, and what it holds where it is a mapping, tell of ``request``."""
    for each in _within(made):
        before = getattr(each, REQUEST, None)
        other = before is not None and before is not request and (before is SHARED or _is_open(before))
        with contextlib.suppress(AttributeError, TypeError):  # a list, a number: they hold no attribute
            setattr(each, REQUEST, SHARED if other else request)


def of(marked: Any) -> Timeline | None:
    """The speech request of one marked object."""
    found = getattr(marked, REQUEST, None)
    if found.__class__ is Timeline:
        return None if found.unseen else found
    return found.timeline if isinstance(found, Candidate) else None


def among(arguments: Iterable[Any]) -> set[Timeline]:
    """The open requests of which a call's arguments tell, opened now if need be; more than one is as good as none."""
    marks = {getattr(each, REQUEST, None) for argument in arguments for each in _within(argument)}
    found = {each.open() if isinstance(each, Candidate) else each for each in marks}
    return {each for each in found if isinstance(each, Timeline) and each.parts}


def of_any(arguments: Iterable[Any]) -> Timeline | None:
    """The one open request of which a call's arguments tell, else the one that the calling context serves."""
    told = among(arguments)
    return around() if not told else told.pop() if len(told) == 1 else None


def around() -> Timeline | None:
    """The open request that the calling thread's context serves, opened now if need be.

    A plain thread and an executor's have OpenTelemetry's context alone, and that where its threading instrumentation
    copies it.
    """
    timeline = current.get()
    if timeline is not None:
        return timeline if timeline.parts else None
    candidate = arrival.get() or otel_context.get_value(REQUEST)
    if isinstance(candidate, Candidate) and not candidate.over:
        return candidate.open()
    return None


def _is_open(request: Timeline | Candidate) -> bool:
    return not request.over if isinstance(request, Candidate) else bool(request.parts)


def _within(argument: Any) -> Iterator[Any]:
    yield argument
    if isinstance(argument, Mapping):
        for _, value in zip(range(MOST), argument.values(), strict=False):
            yield value
