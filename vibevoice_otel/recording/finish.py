"""Why speech ended: the model's own end of speech, its length budget, a stop, or a failure."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from vibevoice_otel.recording.timeline import Timeline
from vibevoice_otel.semconv import FinishReason


class End(Enum):
    """What a finished generation says of itself."""

    SPOKEN = auto()  # the model said that the speech is over
    LENGTH = auto()  # the length budget ended it
    NOT_LENGTH = auto()  # it is over, or something stopped it
    UNFINISHED = auto()  # the budget or something else ended it before the model did


#: What one generation answers when the request is assembled: until then it may lie on a device. None when it is not
#: known.
Ending = Callable[[], End | None]


def decide(timeline: Timeline) -> FinishReason | None:
    """Why the speech of a request ended; None where nothing was generated or the model does not say."""
    started = timeline.started
    if not started:
        return None
    if timeline.generate_error is not None:
        return FinishReason.ERROR
    ended = timeline.generate_end
    stopped = (
        ended is None
        or timeline.cut_off
        or timeline.work_error is not None
        or (timeline.cancelled is not None and timeline.cancelled < ended)
        or (timeline.abandoned is not None and timeline.abandoned < ended)
    )
    return _of([run.ending() if run.ending is not None else None for run in started], stopped=stopped)


def _of(ends: list[End | None], *, stopped: bool) -> FinishReason | None:
    """Of one run or more."""
    if End.LENGTH in ends:
        return FinishReason.LENGTH
    if stopped:
        return FinishReason.EOS if ends.count(End.SPOKEN) == len(ends) else FinishReason.STOPPED
    if End.UNFINISHED in ends:
        return FinishReason.LENGTH
    return FinishReason.EOS if None not in ends else None
