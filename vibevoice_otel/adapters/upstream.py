"""What microsoft/VibeVoice's realtime and long-form models share: scheduler, acoustic tokenizer, audio streamer, loading.

Both adapters attach these; whichever comes first hooks them, the other finds them hooked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeGuard

from vibevoice_otel import semconv
from vibevoice_otel.adapters import surface
from vibevoice_otel.adapters.audio import note_chunk
from vibevoice_otel.adapters.diffusion import hook_scheduler
from vibevoice_otel.adapters.hooks import Hooks
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Leaf, Timeline, current, thread, timed
from vibevoice_otel.semconv import Cache

#: The service class of upstream's server, by whichever module name the server was loaded.
SERVICE = "StreamingTTSService"
#: Module names by which the server is known to be loaded: ``uvicorn demo.web.app:app`` and demo/vibevoice_realtime_demo.py.
SERVERS = ("demo.web.app", "web.app")


def hook_shared(hooks: Hooks, recorder: Recorder) -> None:
    """Attach to the modules that the realtime and the long-form package both have, as they are imported."""
    hooks.on_import("vibevoice.schedule.dpm_solver", lambda m: _scheduler(hooks, m))
    hooks.on_import("vibevoice.modular.modular_vibevoice_tokenizer", lambda m: _tokenizer(hooks, m))
    hooks.on_import("vibevoice.modular.streamer", lambda m: surface.hook_streamer(hooks, m))
    for name in SERVERS:
        hooks.on_import(name, lambda m: _server(hooks, recorder, m))
    for module in list(sys.modules.values()):  # a server that was loaded before us, perhaps as __main__
        if getattr(module, "__name__", None) not in SERVERS and is_service(vars(module).get(SERVICE)):
            surface.hook_service(hooks, recorder, vars(module)[SERVICE])


def is_service(candidate: Any) -> TypeGuard[type]:
    """Whether this is a class with upstream's service surface."""
    return isinstance(candidate, type) and hasattr(candidate, "_run_generation") and hasattr(candidate, "stream")


def _scheduler(hooks: Hooks, module: ModuleType) -> None:
    scheduler = hooks.owner(module, "DPMSolverMultistepScheduler", semconv.STEP.name)
    if scheduler is not None:
        hook_scheduler(hooks, scheduler)


def _tokenizer(hooks: Hooks, module: ModuleType) -> None:
    acoustic = hooks.owner(module, "VibeVoiceAcousticTokenizerModel", semconv.DECODE.name)
    if acoustic is not None:
        hooks.replace(acoustic, "decode", _decode, semconv.DECODE.name)


def _server(hooks: Hooks, recorder: Recorder, module: ModuleType) -> None:
    service: Any = vars(module).get(SERVICE)
    if is_service(service):
        surface.hook_service(hooks, recorder, service)
    elif hasattr(module, "AudioStreamer"):  # upstream's server, its service renamed; any other 'web.app' is not our affair
        hooks.owner(module, SERVICE, "queueing, loading, preprocessing and the request's outcome")


def _decode(original: Callable[..., Any]) -> Callable[..., Any]:
    observed = timed(Leaf.DECODE, original)

    def decode(*args: Any, **kwargs: Any) -> Any:
        audio = observed(*args, **kwargs)
        timeline = thread.timeline
        if timeline is not None and timeline.backlog is None:  # no audio queue whose reader would look at the chunk
            note_chunk(timeline, audio)
        return audio

    return decode


def connector(original: Callable[..., Any]) -> Callable[..., Any]:
    """A SpeechConnector's forward, timed unless a prefill that contains it is."""
    observed = timed(Leaf.CONNECTOR, original)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if thread.prefilling else observed(*args, **kwargs)

    return forward


def hook_model(hooks: Hooks, recorder: Recorder, model: type) -> None:
    """Hook what both model classes have: loading, generate, a frame's sampling, the number of steps."""
    hooks.replace(model, "from_pretrained", lambda original: _from_pretrained(hooks, recorder, original), semconv.MODEL_LOAD.name)
    surface.hook_generate(hooks, recorder, model)
    hooks.replace(model, "sample_speech_tokens", _sample, semconv.FRAME.name)
    hooks.replace(model, "set_ddpm_inference_steps", _set_steps, "steps that stick from an earlier request")
    hooks.replace(model, "prepare_inputs_for_generation", _prepare_pass, "the start of vibevoice.lm.forward and vibevoice.prefill")


# ----------------------------------------------------------------------------------------------------------------- frames


def _sample(original: Callable[..., Any]) -> Callable[..., Any]:
    def sample_speech_tokens(self: Any, *args: Any, **kwargs: Any) -> Any:
        timeline = thread.timeline
        if timeline is not None:
            timeline.frames.append(now())
            thread.negative, thread.pass_start = False, 0
            used = timeline.used
            used.steps = self.ddpm_inference_steps
            cfg = kwargs.get("cfg_scale", args[2] if len(args) > 2 else None)
            if cfg is not None:
                used.cfg = float(cfg)
        return original(self, *args, **kwargs)

    return sample_speech_tokens


def _prepare_pass(original: Callable[..., Any]) -> Callable[..., Any]:
    """A pass begins with the preparation of its inputs; the loop that calls both is inline upstream."""

    def prepare_inputs_for_generation(*args: Any, **kwargs: Any) -> Any:
        if thread.timeline is not None and not thread.pass_start:
            thread.pass_start = now()
        return original(*args, **kwargs)

    return prepare_inputs_for_generation


# ------------------------------------------------------------------------------------------------------------------ steps

#: Attribute of a model: the steps that were set outside any request, to which a request that names none should return.
INITIAL_STEPS = "_vibevoice_otel_initial_steps"


def _set_steps(original: Callable[..., Any]) -> Callable[..., Any]:
    def set_ddpm_inference_steps(self: Any, *args: Any, **kwargs: Any) -> Any:
        started = now()
        result = original(self, *args, **kwargs)
        steps = getattr(self, "ddpm_inference_steps", None)
        timeline = current.get()
        if timeline is None:
            setattr(self, INITIAL_STEPS, steps)
            return result
        if isinstance(steps, int):
            timeline.used.steps = steps
            timeline.used.steps_sticky = steps != getattr(self, INITIAL_STEPS, steps) and not _asked_for(timeline, steps)
        if not any(note.span is semconv.MODEL_LOAD for note in timeline.notes):
            # Upstream loads at start-up; a request finds the model there, and setting its steps is all that makes it ready.
            timeline.note(semconv.MODEL_LOAD, started, now(), **{semconv.CACHE.key: Cache.HIT})
        return result

    return set_ddpm_inference_steps


def _asked_for(timeline: Timeline, steps: int) -> bool:
    try:
        return int(timeline.asked.steps or "") == steps
    except ValueError:
        return False


# ---------------------------------------------------------------------------------------------------------------- loading


def _from_pretrained(hooks: Hooks, recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        service = _loading_service()
        if service is not None and hasattr(service.load, "__vibevoice_otel__"):
            return original(cls, *args, **kwargs)  # the service's own load is being timed
        if service is not None:  # a server under a module name that nobody told us
            surface.hook_service(hooks, recorder, service)
        started, error = now(), None
        try:
            return original(cls, *args, **kwargs)
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            attributes: dict[str, Any] = {semconv.CACHE.key: Cache.MISS}
            path = args[0] if args else kwargs.get("pretrained_model_name_or_path")
            if path is not None:
                attributes[semconv.GEN_AI_MODEL.key] = str(path)
            recorder.standalone(semconv.MODEL_LOAD, started, now(), attributes, error)

    return from_pretrained


def _loading_service(depth: int = 4) -> Any | None:
    """The class of the service whose ``load`` calls us, if one does. Looks at the callers' frames: once, at start-up."""
    frame = sys._getframe(2)  # inspect.stack() would read source files
    for _ in range(depth):
        owner = type(frame.f_locals.get("self"))
        if is_service(owner):
            return owner
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None
