"""The serving surface that upstream's server and the embedded one share: a StreamingTTSService around an AudioStreamer.

Both adapters call these with their own classes. The request travels by the context variable into the worker thread, and on the
AudioStreamer, which was made there, into the generation thread (a plain thread inherits no context).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from opentelemetry import context as otel_context

from vibevoice_otel import semconv
from vibevoice_otel.adapters.shared import standalone
from vibevoice_otel.adapters.shared.audio import note_chunk
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.hooks.wrappers import always
from vibevoice_otel.recording import device
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Asked, Timeline, bound, current, thread
from vibevoice_otel.semconv import Cache

#: What torch raises when a device's memory runs out.
OUT_OF_MEMORY = frozenset({"OutOfMemoryError"})
#: Attribute of an AudioStreamer that holds its request's timeline.
TIMELINE = "_vibevoice_otel_timeline"


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
    replace(
        service,
        "_run_generation",
        lambda original: _run_generation(recorder, original),
        "the generation thread's part of the trace",
    )


def hook_streamer(hooks: Hooks, module: ModuleType) -> None:
    """Hook a module with AudioStreamer and AudioSampleIterator: the audio queue and what is read from it."""
    streamer = hooks.owner(module, "AudioStreamer", "the audio queue's backlog")
    iterator = hooks.owner(module, "AudioSampleIterator", "audio defects, leading silence and audio seconds")
    if streamer is not None:
        hooks.replace(streamer, "__init__", _streamer_init, "the audio queue's backlog")
        hooks.note(
            streamer,
            "put",
            "frames put in the audio queue",
            _put_begins,
            _has_put,
            lambda args: getattr(args[0], TIMELINE, None),
        )
    if iterator is not None:
        hooks.note(
            iterator, "__next__", "audio defects, leading silence and audio seconds", always, _chunk_taken, _of_iterator
        )


def hook_generate(hooks: Hooks, recorder: Recorder, model: type) -> None:
    """Hook a model class's ``generate``."""
    hooks.replace(model, "generate", lambda original: _generate(recorder, original), "vibevoice.generate")


# ------------------------------------------------------------------------------------------------------------- the service


def _created(recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    """A service that knows its voices at once gets their series before its first request, else their first failures are no increase."""

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        _learn(recorder, self)

    return init


def _load(recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    def load(self: Any, *args: Any, **kwargs: Any) -> Any:
        cache = Cache.MISS if getattr(self, "model", None) is None else Cache.HIT
        started, error = now(), None
        try:
            return original(self, *args, **kwargs)
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            model = str(getattr(self, "model_path", "") or "")
            attributes: dict[str, Any] = {
                semconv.CACHE.key: cache,
                **({semconv.GEN_AI_MODEL.key: model} if model else {}),
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
    timeline = current.get()
    if timeline is not None:
        timeline.note(span, started, now(), error, **attributes)
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
        timeline = current.get()
        if timeline is not None and isinstance(result, tuple) and result and isinstance(result[0], str):
            timeline.used.voice = result[0]
        return result

    return get_voice_resources


def _voice_load(recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    def ensure_voice_cached(self: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        cache = Cache.HIT if key in getattr(self, "_voice_cache", ()) else Cache.MISS
        timeline = current.get()
        if timeline is not None:
            timeline.used.voice = key  # known even when loading it fails
        started, error = now(), None
        try:
            return original(self, key, *args, **kwargs)
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            attributes = {semconv.CACHE.key: cache, semconv.VOICE.key: key}
            _note_or_standalone(
                recorder, semconv.VOICE_LOAD, started, attributes, error, standalone=cache == Cache.MISS
            )

    return ensure_voice_cached


def _prepare(original: Callable[..., Any]) -> Callable[..., Any]:
    def prepare_inputs(*args: Any, **kwargs: Any) -> Any:
        timeline = current.get()
        if timeline is None:
            return original(*args, **kwargs)
        # The prompt that the text is joined to is ready unless this very request had to load it.
        loads = [note for note in timeline.notes if note.span is semconv.VOICE_LOAD]
        cache = loads[-1].attributes[semconv.CACHE.key] if loads else Cache.HIT
        started, error = now(), None
        try:
            return original(*args, **kwargs)
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            timeline.note(semconv.PREPROCESS, started, now(), error, **{semconv.CACHE.key: cache})

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
    try:
        timeline, token = _begin(recorder, asked, service)
    except Exception as mistake:  # noqa: BLE001 - the service speaks whatever telemetry meets
        hooks.failed("the service's stream", mistake)
        yield from chunks
        return
    try:
        looked_at = timeline.delivered
        for chunk in chunks:
            if (
                timeline.delivered == looked_at
            ):  # the queue's reader, which sees it before it is normalised, has no hook
                note_chunk(timeline, chunk)
            looked_at = timeline.delivered
            try:
                yield chunk
            except GeneratorExit:
                _close(timeline, chunks)
                raise
    except Exception as failure:
        timeline.work_error = type(failure).__name__
        raise
    finally:
        try:
            timeline.work_end = now()
            recorder.release(timeline, "work")
            if token is not None:
                _reset(token)
        except Exception as mistake:  # noqa: BLE001
            hooks.failed("the end of the service's stream", mistake)


def _begin(recorder: Recorder, asked: dict[str, Any], service: Any) -> tuple[Timeline, Any]:
    """The timeline of the work that begins, and what resets the context when that was set here."""
    timeline = current.get()
    token = None
    if timeline is None:  # called without our middleware: from a script, or behind another kind of server
        timeline = recorder.open("work", asked=_asked(asked))
        token = current.set(timeline)
    else:
        recorder.hold(timeline, "work")
        timeline.asked.text_length = (
            timeline.asked.text_length if timeline.asked.text_length is not None else len(asked.get("text") or "")
        )
    timeline.work_start = now()
    if timeline.accepted is not None:
        timeline.note(semconv.QUEUE, timeline.accepted, timeline.work_start)
    model = getattr(service, "model_path", None)
    timeline.used.model = str(model) if model else None
    _used(timeline, asked, service)
    return timeline, token


def _used(timeline: Timeline, asked: dict[str, Any], service: Any) -> None:
    """What the service is about to use; the model's own hooks correct it. A request that fails before them has its labels all the same."""
    cfg = asked.get("cfg_scale")
    steps = asked.get("inference_steps") or getattr(service, "inference_steps", None)
    if isinstance(cfg, int | float):
        timeline.used.cfg = float(cfg)
    if isinstance(steps, int) and steps > 0:
        timeline.used.steps = steps


def _reset(token: Any) -> None:
    with contextlib.suppress(
        ValueError
    ):  # closed from another context than the one that began; that one's copy ends with it
        current.reset(token)


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


# ------------------------------------------------------------------------------------------------------ the audio queue


def _streamer_init(original: Callable[..., Any]) -> Callable[..., Any]:
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        timeline = current.get() or thread.timeline
        if timeline is not None:
            setattr(self, TIMELINE, timeline)
            queues = getattr(self, "audio_queues", ())
            timeline.backlog = lambda: max((each.qsize() for each in queues), default=0)

    return init


def _put_begins(timeline: Timeline, _args: Any, _kwargs: Any) -> Any:
    timeline.last_progress = at = now()
    timeline.puts.append(at)
    return timeline.device


def _has_put(_timeline: Timeline, device: Any, _result: Any) -> None:
    device.seen()  # to queue the audio it was moved to the CPU, which waited for it


def _of_iterator(args: tuple[Any, ...]) -> Timeline | None:
    return getattr(getattr(args[0], "streamer", None), TIMELINE, None)


def _chunk_taken(timeline: Timeline, _token: Any, chunk: Any) -> None:
    if chunk is not None:
        note_chunk(timeline, chunk)


# --------------------------------------------------------------------------------------------------- the generation thread


def _run_generation(recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    def run_generation(*args: Any, **kwargs: Any) -> Any:
        streamer = signature.bind_partial(*args, **kwargs).arguments.get("audio_streamer")
        timeline = getattr(streamer, TIMELINE, None) or _awaiting(recorder)
        if timeline is None:
            return original(*args, **kwargs)
        recorder.hold(timeline, "generation")
        # Log lines of this thread carry the trace, with or without opentelemetry-instrumentation-threading.
        token = otel_context.attach(timeline.context) if timeline.context is not None else None
        try:
            with bound(timeline):
                return original(*args, **kwargs)
        finally:
            if token is not None:
                otel_context.detach(token)
            recorder.release(timeline, "generation")

    return run_generation


def _awaiting(recorder: Recorder) -> Timeline | None:
    """The one request whose work has begun and whose generation has not: the link where the streamer's hook is missing."""
    waiting = [
        each
        for each in recorder.timelines
        if each.work_start is not None and each.work_end is None and each.generate_start is None
    ]
    return waiting[0] if len(waiting) == 1 else None


def _generate(recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        timeline = thread.timeline
        if timeline is not None:
            return _timed_generate(timeline, original, self, args, kwargs)
        streamer = kwargs.get("audio_streamer")
        timeline = (
            getattr(streamer, TIMELINE, None)
            or current.get()
            or (_awaiting(recorder) if streamer is not None else None)
        )
        own = timeline is None
        if timeline is None:  # a script that calls the model itself: the generation is the request
            timeline = standalone.open_request(recorder, "generation")
        else:
            recorder.hold(timeline, "generation")
        timeline.used.model = (
            timeline.used.model or str(getattr(getattr(self, "config", None), "_name_or_path", "") or "") or None
        )
        token = current.set(timeline) if own else None
        try:
            with bound(timeline):
                return _timed_generate(timeline, original, self, args, kwargs)
        finally:
            recorder.release(timeline, "generation")
            if token is not None:
                _reset(token)

    return generate


def _timed_generate(timeline: Timeline, original: Callable[..., Any], model: Any, args: Any, kwargs: Any) -> Any:
    timeline.generate_start = now()
    notes = device.attach(timeline, model)
    try:
        return original(model, *args, **kwargs)
    except BaseException as failure:
        timeline.generate_error = type(failure).__name__
        raise
    finally:
        timeline.generate_end = now()
        if notes is not None:
            notes.end(failed=timeline.generate_error in OUT_OF_MEMORY)
