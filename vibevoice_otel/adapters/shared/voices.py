"""Whose voice it is: a preset's file names it, and what was read from the file carries the name to ``generate``.

A realtime voice is a file of prefilled outputs (``en-Carter_man.pt``). Its tensors are marked as torch reads them, and
keep the mark when the service copies them. A long-form voice is a sample's path, which the processor is given.
"""

from __future__ import annotations

import functools
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from vibevoice_otel import semconv
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.candidate import here
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.semconv import Cache

#: Attribute of a tensor that holds its voice's name.
VOICE = "_vibevoice_otel_voice"
#: A key that every file of prefilled outputs has.
PREFILLED = "tts_lm"


class _Loading(threading.local):
    """Whether a service's own method, which is timed, loads a voice on this thread."""

    timed = False


loading = _Loading()


def hook_load(hooks: Hooks, recorder: Recorder, torch: ModuleType) -> None:
    """Hook ``torch.load``: of everything but a voice it is left alone."""
    part = "the voice that spoke, in a server without upstream's"
    hooks.replace(torch, "load", functools.partial(_load, recorder), part)


def _load(recorder: Recorder, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    started = now()
    loaded = original(*args, **kwargs)
    name = None
    if isinstance(loaded, Mapping) and PREFILLED in loaded:
        name = _name(args[0] if args else kwargs.get("f"))
    if name is not None:
        for tensor in _tensors(loaded):
            setattr(tensor, VOICE, name)
        recorder.bounds.learn_voices([name])
        request = here()
        if request is not None and not loading.timed:
            attributes: dict[str, Any] = {semconv.CACHE.key: Cache.MISS, semconv.VOICE.key: name}
            request.note(semconv.VOICE_LOAD, started, now(), **attributes)
    return loaded


def _name(file: Any) -> str | None:
    """The voice that a file's name tells; none for an upload, whose name its sender chose."""
    path = file if isinstance(file, str | os.PathLike) else getattr(file, "name", None)
    if not isinstance(path, str | os.PathLike):
        return None
    found = Path(os.fsdecode(path))
    return None if found.is_absolute() and found.is_relative_to(tempfile.gettempdir()) else found.stem


def _tensors(prompt: Mapping[str, Any]) -> Iterator[Any]:
    for value in prompt.values():
        tensor = value if hasattr(value, "is_cpu") else getattr(value, "last_hidden_state", None)
        if tensor is not None:
            yield tensor


def of_prompt(prompt: Any) -> str | None:
    """The voice of prefilled outputs that ``generate`` is given."""
    if not isinstance(prompt, Mapping):
        return None
    return next((name for name in (getattr(tensor, VOICE, None) for tensor in _tensors(prompt)) if name), None)


def of_samples(samples: Any) -> str | None:
    """The voice of the first sample that a processor is given, where that is a file and no array."""
    while isinstance(samples, list | tuple) and samples:
        samples = samples[0]
    return _name(samples) if isinstance(samples, str | os.PathLike) else None
