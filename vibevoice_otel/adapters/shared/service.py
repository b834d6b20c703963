"""The serving surface that upstream's server and the embedded one share: a StreamingTTSService around an AudioStreamer.

Both adapters call these with their own classes. The request travels by the context variable into the worker thread, and
on the AudioStreamer, which is made there (audio_queue.py), into the generation thread (generation.py).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from vibevoice_otel import semconv
from vibevoice_otel.adapters.shared import links, loading, voices
from vibevoice_otel.adapters.shared.audio import note_chunk
from vibevoice_otel.adapters.shared.generation import hook_run_generation
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.candidate import here
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Asked, Timeline, current, nobodys
from vibevoice_otel.semconv import Cache

_END = object()


def hook_service(hooks: Hooks, recorder: Recorder, service: type) -> None:
    """Hook a StreamingTTSService class: load, voices, preparation, stream, and the generation thread's target."""
    replace = hooks.replace
    replace(service, "__init__", lambda original: _created(recorder, original), "every voice's series from the start")
    replace(service, "load", lambda original: _load(recorder, original), "vibevoice.model.load")
    replace(service, "_get_voice_resources", lambda original: _voice_used(recorder, original), "the voice that spoke")
    replace(service, "_ensure_voice_cached", lambda original: _voice_load(recorder, original), "vibevoice.voice.load")
    replace(service, "_prepare_inputs", _prepare, "vibevoice.preprocess")
    replace(
        service,
        "stream",
        lambda original: _stream(hooks, recorder, original),
        "vibevoice.queue and the request's outcome",
    )
    hook_run_generation(hooks, recorder, service)


# ---------------------------------------------------------------------------------------------------------- the service


def _created(recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    """A service that knows its voices at once gets their series before its first request, else their first failures are
    no increase.
    """

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        _learn(recorder, self)

    return init


def _load(recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    def load(self: Any, *args: Any, **kwargs: Any) -> Any:
        cache = Cache.MISS if getattr(self, "model", None) is None else Cache.HIT
        started, error, attempts = now(), None, []
        try:
            with loading.load() as attempts:
                return original(self, *args, **kwargs)
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            model = str(getattr(self, "model_path", "") or "")
            attributes: dict[str, Any] = {
                semconv.CACHE.key: cache,
                **({semconv.GEN_AI_MODEL.key: model} if model else {}),
                **loading.told(attempts),
            }
            _note_or_standalone(
                recorder, semconv.MODEL_LOAD, started, attributes, error, standalone=cache == Cache.MISS
            )
            _learn(recorder, self)

    return load


def _note_or_standalone(
    recorder: Recorder,
    span: semconv.Span,
    started: int,
    attributes: dict[str, Any],
    error: str | None,
    *,
    standalone: bool,
) -> None:
    request = here()
    if request is not None:
        request.note(span, started, now(), error, **attributes)
    elif standalone:
        recorder.standalone(span, started, now(), attributes, error)


def _learn(recorder: Recorder, service: Any) -> None:
    """Take over the service's own list of voices, the bound on the voice label."""
    presets = getattr(service, "voice_presets", None)
    if presets and len(presets) != len(recorder.bounds.voices):
        default = inspect.signature(type(service).stream).parameters.get("cfg_scale")
        cfg = default.default if default is not None and isinstance(default.default, float) else None
        recorder.learn_voices(presets, cfg, getattr(service, "inference_steps", None))


def _voice_used(recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    def get_voice_resources(self: Any, *args: Any, **kwargs: Any) -> Any:
        _learn(recorder, self)
        result = original(self, *args, **kwargs)
        request = here()
        if request is not None and isinstance(result, tuple) and result and isinstance(result[0], str):
            request.used.voice = result[0]
        return result

    return get_voice_resources


def _voice_load(recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    def ensure_voice_cached(self: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        cache = Cache.HIT if key in getattr(self, "_voice_cache", ()) else Cache.MISS
        request = here()
        if request is not None:
            request.used.voice = key  # known even when loading it fails
        started, error = now(), None
        voices.loading.timed = True
        try:
            return original(self, key, *args, **kwargs)
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            voices.loading.timed = False
            attributes = {semconv.CACHE.key: cache, semconv.VOICE.key: key}
            _note_or_standalone(
                recorder, semconv.VOICE_LOAD, started, attributes, error, standalone=cache == Cache.MISS
            )

    return ensure_voice_cached


def _prepare(original: Callable[..., Any]) -> Callable[..., Any]:
    def prepare_inputs(*args: Any, **kwargs: Any) -> Any:
        request = here()
        if request is None:
            return original(*args, **kwargs)
        # The prompt that the text is joined to is ready unless this very request had to load it.
        loads = [note for note in request.notes if note.span is semconv.VOICE_LOAD]
        cache = loads[-1].attributes[semconv.CACHE.key] if loads else Cache.HIT
        started, error = now(), None
        try:
            inputs = original(*args, **kwargs)
            links.mark(inputs, request)
            return inputs
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            request.note(semconv.PREPROCESS, started, now(), error, **{semconv.CACHE.key: cache})

    return prepare_inputs


def _stream(hooks: Hooks, recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    def stream(*args: Any, **kwargs: Any) -> Any:
        asked = signature.bind_partial(*args, **kwargs).arguments
        return _observed(hooks, recorder, original(*args, **kwargs), asked, args[0] if args else None)

    return stream


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
        token = current.set(timeline)
        try:
            return function(*args)
        finally:
            current.reset(token)

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
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            timeline.events_blocked += now() - started
