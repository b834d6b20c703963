"""What microsoft/VibeVoice's realtime and long-form models share: scheduler, tokenizers, audio streamer, server,
loading, passes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar, TypeGuard

from vibevoice_otel import semconv
from vibevoice_otel.adapters import surface
from vibevoice_otel.adapters.shared import loading, service, standalone, voices
from vibevoice_otel.adapters.shared.adapter import ModelAdapter
from vibevoice_otel.adapters.shared.audio import note_chunk
from vibevoice_otel.adapters.shared.audio_queue import hook_streamer
from vibevoice_otel.adapters.shared.capture import hook_captures, hook_compilations
from vibevoice_otel.adapters.shared.diffusion import hook_scheduler
from vibevoice_otel.adapters.shared.generation import Parts, hook_generate
from vibevoice_otel.adapters.shared.intervals import timed, times
from vibevoice_otel.adapters.surface import Kind
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.candidate import Candidate, here
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Run, Timeline, thread
from vibevoice_otel.semconv import Cache

#: The service class of upstream's server, by whichever module name the server was loaded.
SERVICE = "StreamingTTSService"
#: Module names by which the server is known to be loaded: ``uvicorn demo.web.app:app`` and
#: demo/vibevoice_realtime_demo.py.
SERVERS = ("demo.web.app", "web.app")


class UpstreamAdapter(ModelAdapter):
    """Attaches to the modules that the realtime and the long-form package both have, and to the server, as they are
    imported.
    """

    name = "upstream"

    def instrument(self) -> None:
        hooks, recorder = self.hooks, self._recorder
        self.instrument_parts()
        hooks.on_import("torch.cuda.graphs", lambda m: hook_captures(hooks, m))
        hooks.on_import("torch._dynamo.callback", lambda m: hook_compilations(hooks, m))
        hooks.on_import("torch", lambda m: voices.hook_load(hooks, recorder, m))
        for name in SERVERS:
            hooks.on_import(name, lambda m: _server(hooks, recorder, m))
        self.find_services()

    def instrument_parts(self) -> None:
        """What stands beside the models."""
        hooks, package = self.hooks, self._package
        hooks.on_import(f"{package}.schedule.dpm_solver", lambda m: _scheduler(hooks, m))
        hooks.on_import(f"{package}.modular.modular_vibevoice_tokenizer", lambda m: _tokenizers(hooks, m))
        hooks.on_import(f"{package}.modular.streamer", lambda m: hook_streamer(hooks, m))

    def find_services(self) -> None:
        """Hook the services of every module that has been executed, whatever its name: before us, or since, up to now.

        An application calls it as it starts: what loads the model then is defined, and has not begun to.
        """
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", {})
            candidates = list(names.values()) if "AudioStreamer" in names else [names.get(SERVICE)]
            for found in filter(is_service, candidates):
                if not hasattr(vars(found).get("stream"), "__vibevoice_otel__"):
                    service.hook_service(self.hooks, self._recorder, found)


class PackagedModel(ModelAdapter):
    """Attaches as the modules of one model of ``package`` are imported: upstream's, or a copy's under another name."""

    modeling: ClassVar[str]  # module with its connectors; what generates lies in another beside it
    model: ClassVar[str]  # class
    kind: ClassVar[Kind]
    processor: ClassVar[tuple[str, str, str, str]]  # module, class, method, and what depends on it

    def instrument(self) -> None:
        self.hooks.on_import(f"{self._package}.modular.{self.modeling}_inference", self._model)
        self.instrument_parts()

    def instrument_parts(self) -> None:
        """What stands beside the model."""
        module, owner, method, part = self.processor
        hook = functools.partial(standalone.remember, self._recorder)
        where = f"{self._package}.processor.{module}"
        self.hooks.on_import(where, lambda m: self.hooks.replace_in(m, owner, method, hook, part))

    def _model(self, module: ModuleType) -> None:
        model = getattr(module, self.model, None) or surface.among(module, self.kind)
        model = model or self.hooks.owner(module, self.model, "everything that the model does")
        if model is None:
            return
        hook_model(self.hooks, self._recorder, model)
        self._passes(model)
        # Other models of the package may have this module too, so it is hooked on account of this one.
        self.hooks.on_import(f"{self._package}.modular.{self.modeling}", self._connector)

    def _passes(self, model: type) -> None:
        raise NotImplementedError

    def _connector(self, module: ModuleType) -> None:
        connector = self.hooks.owner(module, "SpeechConnector", semconv.CONNECTOR.name)
        if connector is not None:
            hook_connector(self.hooks, connector)


def is_service(candidate: Any) -> TypeGuard[type]:
    """Whether this is a class with upstream's service surface."""
    return isinstance(candidate, type) and hasattr(candidate, "_run_generation") and hasattr(candidate, "stream")


def _scheduler(hooks: Hooks, module: ModuleType) -> None:
    scheduler = hooks.owner(module, "DPMSolverMultistepScheduler", semconv.STEP.name)
    if scheduler is not None:
        hook_scheduler(hooks, scheduler)


def _tokenizers(hooks: Hooks, module: ModuleType) -> None:
    acoustic = hooks.owner(module, "VibeVoiceAcousticTokenizerModel", semconv.DECODE.name)
    if acoustic is not None:
        hook_decode(hooks, acoustic)
    semantic = getattr(module, "VibeVoiceSemanticTokenizerModel", None)  # the realtime model does not listen to itself
    if semantic is not None:
        hook_semantic(hooks, semantic)


def hook_decode(hooks: Hooks, tokenizer: type) -> None:
    """Hook the acoustic tokenizer's ``decode``."""
    hooks.note(tokenizer, "decode", semconv.DECODE.name, _decode_begins, _decoded)


def hook_semantic(hooks: Hooks, tokenizer: type) -> None:
    """Hook the semantic tokenizer's ``encode``."""
    hooks.note(tokenizer, "encode", semconv.SEMANTIC_ENCODE.name, *times(Leaf.SEMANTIC_ENCODE, outside_prefill=True))


def _server(hooks: Hooks, recorder: Recorder, module: ModuleType) -> None:
    named = vars(module).get(SERVICE)
    found = (
        named if isinstance(named, type) else next((each for each in vars(module).values() if is_service(each)), None)
    )
    if found is not None:
        service.hook_service(hooks, recorder, found)
    elif hasattr(
        module, "AudioStreamer"
    ):  # upstream's server, changed beyond recognition; any other web.app is not our affair
        hooks.owner(module, SERVICE, "queueing, loading, preprocessing and the request's outcome")


_decode_begins, _ = times(Leaf.DECODE)


def _decoded(run: Run, begun: tuple[Leaf, int], audio: Any) -> None:
    run.leave(begun)
    timeline = thread.timeline
    if (
        timeline is not None and timeline.backlog is None and audio is not None
    ):  # no audio queue whose reader would look
        run.decoded += note_chunk(timeline, getattr(audio, "audio", audio))


def hook_connector(hooks: Hooks, connector: type) -> None:
    """Hook the ``forward`` of a connector."""
    hooks.note(connector, "forward", semconv.CONNECTOR.name, *times(Leaf.CONNECTOR, outside_prefill=True))


def hook_model(hooks: Hooks, recorder: Recorder, model: type, parts: Parts | None = None) -> None:
    """Hook what both model classes have: loading, generate, a frame's sampling, the number of steps."""
    hooks.replace(
        model, "from_pretrained", functools.partial(_from_pretrained, hooks, recorder), semconv.MODEL_LOAD.name
    )
    hook_generate(hooks, recorder, model, parts)
    hooks.replace(model, "set_ddpm_inference_steps", _set_steps, "steps that stick from an earlier request")
    hooks.note(model, "sample_speech_tokens", semconv.FRAME.name, _frame_begins)
    hook_preparation(hooks, model)


def hook_preparation(hooks: Hooks, model: type) -> None:
    """Hook what a pass of the language model begins and ends with."""
    hooks.note(
        model,
        "prepare_inputs_for_generation",
        "the start of vibevoice.lm.forward and vibevoice.prefill",
        _pass_prepared,
    )
    hooks.note(
        model,
        "_update_model_kwargs_for_generation",
        "the carrying on of caches in vibevoice.lm.forward",
        _pass_has_run,
        _pass_carried_on,
    )


# --------------------------------------------------------------------------------------------------------------- frames

NUMBER = (int, float)  # made once, for every frame asks


def _frame_begins(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    at = now()
    run.frames.append(at)
    if run.device is not None:
        run.device.frame(at)
    run.negative = run.prefilling = False
    run.pass_start = 0
    used = run.used
    steps = getattr(args[0], "ddpm_inference_steps", None)
    if isinstance(steps, int) and steps != used.steps:
        used.steps = steps
    cfg = args[3] if len(args) > 3 else kwargs.get("cfg_scale")
    if isinstance(cfg, NUMBER) and cfg != used.cfg:  # in this order: to compare a tensor would wait for its device
        used.cfg = float(cfg)


# --------------------------------------------------------------------------------------------------------------- passes
# A pass of the language model is spread over calls that the generation loop makes one after the other: its inputs are
# prepared, it runs, its caches and masks are carried on.


def _pass_prepared(run: Run, _args: Any, _kwargs: Any) -> None:
    if not run.pass_start:
        run.pass_start = now()


def pass_begins(run: Run, leaf: Leaf, *, entered: bool = False) -> tuple[Leaf, int]:
    """A pass runs, to be noted as ``leaf`` from its preparation on. ``entered``: the device clock has been told of it
    already.
    """
    started, run.pass_start, run.pass_run = run.pass_start or now(), 0, leaf
    if run.device is not None and not entered:
        run.device.enter(leaf)
    return leaf, started


def _pass_has_run(run: Run, _args: Any, _kwargs: Any) -> Leaf | None:
    leaf, run.pass_run = run.pass_run, None
    return leaf


def _pass_carried_on(run: Run, leaf: Leaf, _result: Any) -> None:
    passes = run.leaves[leaf]
    if passes:  # the last pass is younger than the last frame's start, so no drain can be taking it now
        passes[-1] = now()


# ---------------------------------------------------------------------------------------------------------------- steps

#: Attribute of a model: the steps that were set outside any request, to which a request that names none should return.
INITIAL_STEPS = "_vibevoice_otel_initial_steps"


def _set_steps(original: Callable[..., Any], model: Any, /, *args: Any, **kwargs: Any) -> Any:
    started = now()
    result = original(model, *args, **kwargs)
    steps = getattr(model, "ddpm_inference_steps", None)
    request = here()
    if request is None:
        setattr(model, INITIAL_STEPS, steps)
        return result
    if isinstance(steps, int):
        request.used.steps = steps
        request.used.steps_sticky = steps != getattr(model, INITIAL_STEPS, steps) and not _asked_for(request, steps)
    if not any(note.span is semconv.MODEL_LOAD for note in request.notes):
        # Upstream loads at start-up; a request finds the model there, and setting its steps is all that makes it
        # ready.
        request.note(semconv.MODEL_LOAD, started, now(), **{semconv.CACHE.key: Cache.HIT})
    return result


def _asked_for(request: Timeline | Candidate, steps: int) -> bool:
    try:
        return int(request.asked.steps or "") == steps
    except ValueError:
        return False


# -------------------------------------------------------------------------------------------------------------- loading


def _from_pretrained(
    hooks: Hooks, recorder: Recorder, original: Callable[..., Any], cls: Any, /, *args: Any, **kwargs: Any
) -> Any:
    attempts = loading.attempts.get()
    if attempts is not None:
        with timed(lambda _start, _end, error: attempts.append(error)):
            return original(cls, *args, **kwargs)
    caller = _loading_service()
    if caller is not None:  # its module was executed, and its load begun, outside of any application that we see start
        service.hook_service(hooks, recorder, caller)
    attributes: dict[str, Any] = {semconv.CACHE.key: Cache.MISS}
    path = args[0] if args else kwargs.get("pretrained_model_name_or_path")
    if path is not None:
        attributes[semconv.GEN_AI_MODEL.key] = str(path)
    with timed(lambda start, end, error: recorder.standalone(semconv.MODEL_LOAD, start, end, attributes, error)):
        return original(cls, *args, **kwargs)


def _loading_service(depth: int = 5) -> Any | None:
    """The class of the service whose ``load`` calls us, if one does. Looks at the callers' frames: once,
    at start-up.
    """
    frame = sys._getframe(2)  # inspect.stack() would read source files
    for _ in range(depth):
        owner = type(frame.f_locals.get("self"))
        if is_service(owner):
            return owner
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None
