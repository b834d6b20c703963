"""The thread that generates: how it finds its request, and each call of ``generate``, a run of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from vibevoice_otel.adapters.shared import audio, finish, links, standalone, voices
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording import device
from vibevoice_otel.recording.candidate import waiting
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Run, Timeline, bound, nobodys, serving, thread

#: What torch raises when a device's memory runs out.
OUT_OF_MEMORY = frozenset({"OutOfMemoryError"})
#: What is lost where a generation's request is not known.
LINKS = "links"
#: Sees a model and what its ``generate`` is given.
Parts = Callable[[Any, dict[str, Any]], None]


def hook_generate(hooks: Hooks, recorder: Recorder, model: type, parts: Parts | None = None) -> None:
    """Hook a model class's ``generate``; ``parts`` sees each one's model and arguments, once its request is known."""

    def seen(model: Any, kwargs: dict[str, Any]) -> None:
        if parts is not None:  # a mistake there costs what it would have hooked
            hooks.attempt("the parts of a fork's model", parts, model, kwargs)

    hooks.replace(model, "generate", partial(_generate, recorder, seen), "vibevoice.generate")


_numbers = itertools.count(1)


def _part() -> str:
    """The name of one more part of a request: several threads may generate for it at once."""
    return f"generation {next(_numbers)}"


def _request_of(recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Timeline | None:
    """The request for which a call generates: what its arguments tell, else the context of the calling thread.

    Where they tell of two, or of none while web requests are being served, the generation stands alone and is counted
    as unlinked.
    """
    told = links.among((*args, *kwargs.values()))
    if len(told) > 1:
        recorder.on_drop(LINKS, "ambiguous", 1)
        return None
    found = told.pop() if told else links.around()
    if found is None and waiting:
        recorder.on_drop(LINKS, "no_object", 1)
    return found


def run_generation(recorder: Recorder, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """In place of the method of a service that its generation thread runs: generation, and what stands around it."""
    timeline = links.of_any((*args, *kwargs.values()))
    if timeline is None:
        return original(*args, **kwargs)
    if timeline.unseen:
        with serving(timeline):
            return original(*args, **kwargs)
    part = _part()
    recorder.hold(timeline, part)
    # Log lines of this thread carry the trace, with or without opentelemetry-instrumentation-threading.
    token = otel_context.attach(timeline.context) if timeline.context is not None else None
    try:
        with bound(timeline):
            return original(*args, **kwargs)
    finally:
        if token is not None:
            otel_context.detach(token)
        recorder.release(timeline, part)


def _generate(
    recorder: Recorder, seen: Parts, original: Callable[..., Any], model: Any, /, *args: Any, **kwargs: Any
) -> Any:
    run = thread.run
    if run is not None and run.start is None:
        seen(model, kwargs)
        return _timed(recorder, run, original, model, args, kwargs)
    if run is not None and run.end is None:  # a subclass calls its base's: the same run
        return original(model, *args, **kwargs)
    timeline = thread.timeline or _request_of(recorder, args, kwargs)
    part = _part()
    served: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if timeline.unseen if timeline is not None else not is_instrumentation_enabled():
        with serving(timeline or nobodys()):
            return original(model, *args, **kwargs)
    if timeline is None:  # a script that calls the model itself: the generation is the request
        timeline = standalone.open_request(recorder, part)
        served = serving(timeline)
    else:
        recorder.hold(timeline, part)
    recorder.model_ready = True
    used = timeline.used
    identity = recorder.models.of(model)
    used.model, used.revision = used.model or identity.name, identity.revision
    used.voice = used.voice or voices.of_prompt(kwargs.get("all_prefilled_outputs"))
    try:
        with served, bound(timeline) as run:
            seen(model, kwargs)
            return _timed(recorder, run, original, model, args, kwargs)
    finally:
        recorder.release(timeline, part)


def _timed(recorder: Recorder, run: Run, original: Callable[..., Any], model: Any, args: Any, kwargs: Any) -> Any:
    run.start = now()
    notes = device.attach(run, model)
    timeline = thread.timeline
    if notes is not None and recorder.sampler is not None and timeline is not None:
        notes.sample = recorder.sampler.of(timeline, notes.device, notes.placing.samples)
    try:
        result = original(model, *args, **kwargs)
        run.ending = finish.ending(model, kwargs, result)
        run.returned = audio.returned(kwargs, result)
        return result
    except BaseException as failure:
        run.error = type(failure).__name__
        raise
    finally:
        run.end = now()
        if timeline is not None and on_event_loop():
            timeline.events_blocked += run.end - run.start
        if notes is not None:
            notes.end(failed=run.error in OUT_OF_MEMORY)


def on_event_loop() -> bool:
    """Whether the calling thread runs an event loop, which is held for as long as the thread works."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
