"""The serving surface that upstream's server and the embedded one share: a StreamingTTSService around an AudioStreamer.

Both adapters call these with their own classes. The request travels by the context variable into the worker thread, and
on the AudioStreamer, which is made there (audio_queue.py), into the generation thread (generation.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from vibevoice_otel import semconv
from vibevoice_otel.adapters.shared import links, loading, voices
from vibevoice_otel.adapters.shared.audio import note_chunk
from vibevoice_otel.adapters.shared.generation import on_event_loop, run_generation
from vibevoice_otel.adapters.shared.intervals import timed
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.candidate import here
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Asked, Timeline, current, nobodys, serving
from vibevoice_otel.semconv import Cache

_END = object()
#: Signature of each function that has been asked for; gone with the function.
_signatures: WeakKeyDictionary[Callable[..., Any], inspect.Signature] = WeakKeyDictionary()


def hook_service(hooks: Hooks, recorder: Recorder, service: type) -> None:
    """Hook a StreamingTTSService class: load, voices, preparation, stream, and the generation thread's target."""
    replace = hooks.replace
    replace(service, "__init__", partial(_created, recorder), "every voice's series from the start")
    replace(service, "load", partial(_load, recorder), "vibevoice.model.load")
    replace(service, "_get_voice_resources", partial(_voice_used, recorder), "the voice that spoke")
    replace(service, "_ensure_voice_cached", partial(_voice_load, recorder), "vibevoice.voice.load")
    replace(service, "_prepare_inputs", _prepare, "vibevoice.preprocess")
    replace(service, "stream", partial(_stream, hooks, recorder), "vibevoice.queue and the request's outcome")
    replace(service, "_run_generation", partial(run_generation, recorder), "the generation thread's part of the trace")


# ---------------------------------------------------------------------------------------------------------- the service


def _created(recorder: Recorder, original: Callable[..., Any], service: Any, /, *args: Any, **kwargs: Any) -> None:
    """A service that knows its voices at once gets their series before its first request, else their first failures are
    no increase.
    """
    original(service, *args, **kwargs)
    _learn(recorder, service)


def _load(recorder: Recorder, original: Callable[..., Any], service: Any, /, *args: Any, **kwargs: Any) -> Any:
    cache = Cache.MISS if getattr(service, "model", None) is None else Cache.HIT

    def note(started: int, ended: int, error: str | None) -> None:
        attributes = {semconv.CACHE.key: cache, **loading.told(attempts)}
        model = str(getattr(service, "model_path", "") or "")
        if model:
            attributes[semconv.GEN_AI_MODEL.key] = model
        _note_load(recorder, semconv.MODEL_LOAD, attributes, started, ended, error)
        _learn(recorder, service)

    with loading.load() as attempts, timed(note):
        return original(service, *args, **kwargs)


def _note_load(
    recorder: Recorder, span: semconv.Span, attributes: dict[str, Any], started: int, ended: int, error: str | None
) -> None:
    """Note a load of the request that waits for it; without one, a load of what was not there is a trace of its own."""
    request = here()
    if request is not None:
        request.note(span, started, ended, error, **attributes)
    elif attributes[semconv.CACHE.key] == Cache.MISS:
        recorder.standalone(span, started, ended, attributes, error)


def _learn(recorder: Recorder, service: Any) -> None:
    """Take over the service's own list of voices, the bound on the voice label."""
    presets = getattr(service, "voice_presets", None)
    if presets and len(presets) != len(recorder.bounds.voices):
        default = inspect.signature(type(service).stream).parameters.get("cfg_scale")
        cfg = default.default if default is not None and isinstance(default.default, float) else None
        recorder.learn_voices(presets, cfg, getattr(service, "inference_steps", None))


def _voice_used(recorder: Recorder, original: Callable[..., Any], service: Any, /, *args: Any, **kwargs: Any) -> Any:
    _learn(recorder, service)
    result = original(service, *args, **kwargs)
    request = here()
    if request is not None and isinstance(result, tuple) and result and isinstance(result[0], str):
        request.used.voice = result[0]
    return result


def _voice_load(
    recorder: Recorder, original: Callable[..., Any], service: Any, /, key: str, *args: Any, **kwargs: Any
) -> Any:
    cache = Cache.HIT if key in getattr(service, "_voice_cache", ()) else Cache.MISS
    request = here()
    if request is not None:
        request.used.voice = key  # known even when loading it fails
    attributes = {semconv.CACHE.key: cache, semconv.VOICE.key: key}
    with timed(partial(_note_load, recorder, semconv.VOICE_LOAD, attributes)):
        voices.loading.timed = True
        try:
            return original(service, key, *args, **kwargs)
        finally:
            voices.loading.timed = False


def _prepare(original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    request = here()
    if request is None:
        return original(*args, **kwargs)
    # The prompt that the text is joined to is ready unless this very request had to load it.
    loads = [note for note in request.notes if note.span is semconv.VOICE_LOAD]
    cache = loads[-1].attributes[semconv.CACHE.key] if loads else Cache.HIT
    told = {semconv.CACHE.key: cache}
    with timed(lambda start, end, error: request.note(semconv.PREPROCESS, start, end, error, **told)):
        inputs = original(*args, **kwargs)
        links.mark(inputs, request)
        return inputs


def _stream(hooks: Hooks, recorder: Recorder, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    signature = _signatures.get(original)
    if signature is None:
        signature = _signatures[original] = inspect.signature(original)
    asked = signature.bind_partial(*args, **kwargs).arguments
    return _observed(hooks, recorder, original(*args, **kwargs), asked, args[0] if args else None)


def _observed(
    hooks: Hooks, recorder: Recorder, chunks: Iterator[Any], asked: dict[str, Any], service: Any
) -> Iterator[Any]:
    """The service's generator, its body timed from the first next(), its outcome noted. Runs on the worker thread."""
    begun = hooks.attempt("the service's stream", _begin, recorder, asked, service)
    if begun is None:
        yield from chunks
        return
    timeline, own = begun
    if timeline.unseen:
        yield from _carried(timeline, chunks)
        return
    # Where the request is known here first it is current while the service's code runs, and not while the reader's
    # does.
    run = _within(timeline) if own else _call
    chunks = iter(chunks)
    try:
        looked_at = timeline.delivered
        while (chunk := run(next, chunks, _END)) is not _END:
            if (
                timeline.delivered == looked_at
            ):  # the queue's reader, which sees it before it is normalised, has no hook
                note_chunk(timeline, chunk)
            looked_at = timeline.delivered
            try:
                yield chunk
            except GeneratorExit:
                timeline.abandoned = now()
                run(_close, timeline, chunks)
                raise
    except Exception as failure:
        timeline.work_error = type(failure).__name__
        raise
    finally:
        timeline.work_end = now()
        hooks.attempt("the end of the service's stream", recorder.release, timeline, "work")


def _carried(timeline: Timeline, chunks: Iterator[Any]) -> Iterator[Any]:
    """``chunks`` of a request that is not observed, whose generation is therefore not a request of its own."""
    run, chunks = _within(timeline), iter(chunks)
    try:
        while (chunk := run(next, chunks, _END)) is not _END:
            yield chunk
    finally:
        run(getattr(chunks, "close", bool))


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _within(timeline: Timeline) -> Callable[..., Any]:
    """Calls a function with ``timeline`` as the current request."""

    def run(function: Callable[..., Any], *args: Any) -> Any:
        with serving(timeline):
            return function(*args)

    return run


def _begin(recorder: Recorder, asked: dict[str, Any], service: Any) -> tuple[Timeline, bool]:
    """The timeline of the work that begins, and whether it is yet to be made current."""
    timeline = links.around()
    if timeline is None:  # called without our middleware: from a script, or behind another kind of server
        if not is_instrumentation_enabled():
            return nobodys(), True
        timeline = recorder.open("work", asked=_asked(asked))
    elif timeline.unseen:
        return timeline, False
    else:
        recorder.hold(timeline, "work")
        _complete(timeline.asked, _asked(asked))
    timeline.work_start = now()
    if timeline.accepted is not None:
        timeline.note(semconv.QUEUE, max(timeline.accepted, timeline.begun), timeline.work_start)
    model = getattr(service, "model_path", None)
    timeline.used.model = str(model) if model else None
    _used(timeline, asked, service)
    return timeline, current.get() is None


def _complete(asked: Asked, given: Asked) -> None:
    """Where the URL does not say what to speak a message has, and with it the rest; it is known by what the service is
    given.
    """
    if asked.by_url:
        return
    asked.text_length, asked.blank = given.text_length, given.blank
    for name in ("voice", "cfg", "steps"):
        if getattr(asked, name) is None:
            setattr(asked, name, getattr(given, name))


def _used(timeline: Timeline, asked: dict[str, Any], service: Any) -> None:
    """What the service is about to use; the model's own hooks correct it. A request that fails before them has its
    labels all the same.
    """
    cfg = asked.get("cfg_scale")
    steps = asked.get("inference_steps") or getattr(service, "inference_steps", None)
    if isinstance(cfg, int | float):
        timeline.used.cfg = float(cfg)
    if isinstance(steps, int) and steps > 0:
        timeline.used.steps = steps


def _asked(arguments: dict[str, Any]) -> Asked:
    text = arguments.get("text")
    text = text if isinstance(text, str) else ""
    voice, cfg, steps = (arguments.get(name) for name in ("voice_key", "cfg_scale", "inference_steps"))
    return Asked(
        voice=str(voice) if voice is not None else None, cfg=str(cfg) if cfg is not None else None,
        steps=str(steps) if steps is not None else None, text_length=len(text), blank=not text.strip(),
    )  # fmt: skip


def _close(timeline: Timeline, chunks: Iterator[Any]) -> None:
    """Close the service's generator; when that happens on an event loop, note for how long it was blocked."""
    started = now()
    try:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    finally:
        if on_event_loop():
            timeline.events_blocked += now() - started
