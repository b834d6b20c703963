"""A request that has come in and may turn out to be speech: what is needed to open it later, as of its arrival.

Every HTTP request of a program that speaks leaves one. It costs no span and no series; a generation that is linked to
it opens it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from vibevoice_otel import forking
from vibevoice_otel.recording.timeline import Asked, Note, Timeline, Used, current

if TYPE_CHECKING:
    from vibevoice_otel import semconv

#: Attribute of an object that was made for a request, and the key of a request in OpenTelemetry's context.
REQUEST = "_vibevoice_otel_request"
_opening = threading.Lock()


#: The requests that are being served and are not known to be speech: each leaves when it is answered.
waiting: set[Candidate] = set()


def _begin_anew() -> None:
    """A forked child serves none of its parent's requests, and waits for none of its threads."""
    global _opening  # noqa: PLW0603 - the module is the object
    _opening = threading.Lock()
    waiting.clear()


forking.renew_in_child(_begin_anew)


class Candidate:
    """What is known of a request before it is known to be speech.

    Args:
        opens: opens its timeline, backdated to its arrival.
    """

    __slots__ = ("_opens", "_used", "asked", "notes", "over", "timeline")

    def __init__(self, opens: Callable[[Asked], Timeline | None]) -> None:
        self._opens = opens
        self._used: Used | None = None
        self.asked: Asked = Asked()
        self.notes: list[Note] = []
        self.timeline: Timeline | None = None
        self.over = False  # it has been answered: a generation from now on is not its own
        waiting.add(self)

    @property
    def used(self) -> Used:
        if self._used is None:
            self._used = Used()
        return self._used

    def note(self, span: semconv.Span, start: int, end: int, error_type: str | None = None, **attributes: Any) -> None:
        """As :meth:`Timeline.note`."""
        self.notes.append(Note(span, start, end, {k.replace("__", "."): v for k, v in attributes.items()}, error_type))

    def open(self) -> Timeline | None:
        """The request's timeline, opened now if it was not yet; None when the request is over without having been one
        of speech.
        """
        with _opening:
            if self.timeline is None and not self.over:
                timeline = self._opens(self.asked)
                if timeline is None:
                    return None
                timeline.notes.extend(self.notes)
                if self._used is not None:  # its first run reads the same object
                    timeline.used = timeline.runs[0].used = self._used
                self.timeline = timeline
                waiting.discard(self)
            return self.timeline

    def end(self) -> Timeline | None:
        """It has been answered; returns its timeline if it is one of speech."""
        with _opening:
            self.over = True
            waiting.discard(self)
            return self.timeline


#: The web request of the current task or worker thread, as :data:`current` is the speech request.
arrival: ContextVar[Candidate | None] = ContextVar("vibevoice_otel_arrival", default=None)


def is_served() -> bool:
    """Whether the request that the calling context serves is looked at already: by the application around this one."""
    around = arrival.get()
    return current.get() is not None or (around is not None and not around.over)


def here() -> Timeline | Candidate | None:
    """The request that the calling context serves, opened or not; both take notes."""
    timeline = current.get()
    if timeline is not None:
        return timeline
    candidate = arrival.get()
    if candidate is None or candidate.over:
        return None
    return candidate.timeline or candidate
