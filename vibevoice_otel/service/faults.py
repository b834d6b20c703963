"""Faults for tests: each is a small wrapper around a real part, so that the time really passes, or the failure happens,
inside it.

Set by ``VIBEVOICE_SERVICE_FAULTS`` (JSON) alone; no request can reach them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Faults:
    """Delays are in seconds, in each call of the part."""

    load_delay: float = 0.0
    queue_delay: float = 0.0  # a request waits so long for its turn
    voice_delay: Mapping[str, float] = field(default_factory=dict)  # loading a voice's prompt
    preprocess_delay: float = 0.0
    lm_delay: float = 0.0  # in the language model
    step_delay: float = 0.0  # in the diffusion head
    slow_voices: Mapping[str, float] = field(default_factory=dict)  # step_delay of one voice
    decode_delay: float = 0.0
    first_audio_delay: float = 0.0  # between the first decode and the queue
    reader_delay: float = 0.0  # before each chunk is taken from the queue, which fills up meanwhile
    corrupt_voices: tuple[str, ...] = ()
    fail_at_frame: int | None = None
    hang_at_frame: int | None = None  # for hang_seconds
    hang_seconds: float = 3600.0
    nan_frames: tuple[int, ...] = ()
    silent: bool = False

    def __post_init__(self) -> None:
        for spec in fields(self):
            kind, allowed = _KINDS[str(spec.type)]
            value = getattr(self, spec.name)
            if not kind(value):
                raise ValueError(f"{spec.name} is {value!r}; allowed is {allowed}")

    @classmethod
    def from_mapping(cls, values: Any) -> Faults:
        """Raises ValueError naming what is unknown."""
        if not isinstance(values, dict):
            raise ValueError("a JSON object is needed")  # noqa: TRY004 - the content is wrong, not the caller
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**arguments)


def _seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _frame(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


#: Annotation of a field -> (is the value valid, what is).
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "float": (_seconds, "seconds, 0 or more"),
    "bool": (lambda v: isinstance(v, bool), "true or false"),
    "int | None": (lambda v: v is None or _frame(v), "a frame's number, from 0"),
    "tuple[int, ...]": (lambda v: isinstance(v, tuple) and all(map(_frame, v)), "a list of frames' numbers, from 0"),
    "tuple[str, ...]": (
        lambda v: isinstance(v, tuple) and all(isinstance(each, str) for each in v),
        "a list of voices",
    ),
    "Mapping[str, float]": (
        lambda v: isinstance(v, Mapping) and all(map(_seconds, v.values())),
        "an object, voice to seconds",
    ),
}


def pause(seconds: float) -> None:
    """Sleep, but not for zero seconds (which would yield the interpreter)."""
    if seconds > 0:
        time.sleep(seconds)
