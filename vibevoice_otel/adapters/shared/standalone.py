"""Programs without a server: keeps the processor's timing for the ``generate`` call that follows,
which is the request.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vibevoice_otel import semconv
from vibevoice_otel.adapters.shared import links, voices
from vibevoice_otel.adapters.shared.intervals import timed
from vibevoice_otel.recording.candidate import Candidate, here
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Asked, Timeline, thread

#: A preparation older than this, in nanoseconds, is not part of the generation that follows: the program did something
#: else.
RECENT = 5_000_000_000


@dataclass(frozen=True, slots=True)
class _Preparation:
    start: int
    end: int
    characters: int | None


class _Last(threading.local):
    preparation: _Preparation | None = None


_last = _Last()


def _voice(recorder: Recorder, request: Timeline | Candidate, samples: Any) -> None:
    name = voices.of_samples(samples)
    if name is not None and request.used.voice is None:
        recorder.bounds.learn_voices([name])
        request.used.voice = name


def remember(recorder: Recorder, original: Callable[..., Any], processor: Any, /, *args: Any, **kwargs: Any) -> Any:
    """A processor's entry point: the preprocessing of the request that it serves, else of the generate that follows.

    A service that is hooked times its own preparation, of which this is a part.
    """
    request = thread.timeline or here()
    if isinstance(request, Timeline) and request.work_start is not None:
        return original(processor, *args, **kwargs)
    length = characters(kwargs.get("text", args[0] if args else None))

    def note(started: int, ended: int, error: str | None) -> None:
        if request is not None:
            request.note(semconv.PREPROCESS, started, ended, error)
            _voice(recorder, request, kwargs.get("voice_samples"))
            if length is not None:
                request.asked.text_length = (request.asked.text_length or 0) + length
        elif error is None:
            _last.preparation = _Preparation(started, ended, length)

    with timed(note):
        result = original(processor, *args, **kwargs)
    if request is not None:
        links.mark(result, request)
    return result


def characters(text: Any) -> int | None:
    """Characters to speak in a processor's ``text``: a script or a list of them; None for a path, whose content is not
    seen.
    """
    if isinstance(text, str):
        return None if text.endswith((".txt", ".json")) and os.path.exists(text) else len(text)  # noqa: PTH110 - text may be no path
    if isinstance(text, list | tuple):
        lengths = [characters(part) for part in text]
        return None if None in lengths else sum(length for length in lengths if length is not None)
    return None


def open_request(recorder: Recorder, part: str) -> Timeline:
    """Open the request that a bare ``generate`` is: from the preparation just before it on this thread, if there was
    one.
    """
    last, _last.preparation = _last.preparation, None
    if last is None or now() - last.end > RECENT:
        return recorder.open(part)
    timeline = recorder.open(part, asked=Asked(text_length=last.characters), opened=last.start)
    timeline.note(semconv.PREPROCESS, last.start, last.end)
    return timeline
