"""transformers' native VibeVoice (VibeVoiceForConditionalGeneration), in the embedded service or in any program.

Threads: everything below runs on the thread that called ``generate``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from vibevoice_otel.adapters import surface
from vibevoice_otel.adapters.capture import hook_captures
from vibevoice_otel.adapters.diffusion import hook_scheduler
from vibevoice_otel.adapters.hooks import Hooks
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Leaf, thread, timed

NAME = "transformers"


class TransformersAdapter:
    """Attaches as transformers' VibeVoice modules, and the embedded service's, are imported."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.hooks = Hooks(NAME, recorder.on_drop)

    def instrument(self) -> None:
        on_import = self.hooks.on_import
        on_import("transformers.models.vibevoice.generation_vibevoice", self._generation)
        on_import("transformers.models.vibevoice.modeling_vibevoice", self._modeling)
        on_import("transformers.generation.logits_process", self._guidance)
        on_import(
            "diffusers.schedulers.scheduling_dpmsolver_multistep", lambda m: hook_scheduler(self.hooks, m.DPMSolverMultistepScheduler)
        )
        on_import("torch.cuda.graphs", lambda m: hook_captures(self.hooks, m))
        on_import("vibevoice_otel.service.engine", lambda m: surface.hook_service(self.hooks, self._recorder, m.StreamingTTSService))
        on_import("vibevoice_otel.service.streamer", lambda m: surface.hook_streamer(self.hooks, m))

    def uninstrument(self) -> None:
        self.hooks.undo()

    def _generation(self, module: ModuleType) -> None:
        mixin = module.VibeVoiceGenerationMixin
        replace = self.hooks.replace
        replace(mixin, "_sample_audio_latent", self._frame, "vibevoice.frame")
        replace(mixin, "_decode_audio_latent", lambda original: timed(Leaf.DECODE, original), "vibevoice.decode")
        replace(mixin, "_step_negative_branch", _negative, "vibevoice.lm.forward (negative)")
        replace(mixin, "_reset_negative_cache_for_audio_start", _negative_begins, "the start of vibevoice.lm.forward (negative)")

    def _modeling(self, module: ModuleType) -> None:
        model = module.VibeVoiceForConditionalGeneration
        replace = self.hooks.replace
        surface.hook_generate(self.hooks, self._recorder, model)
        replace(model, "_prefill", _prefill, "vibevoice.prefill")
        replace(model, "prepare_inputs_for_generation", _prepare_pass, "the start of vibevoice.lm.forward (positive)")
        replace(model, "forward", _forward, "vibevoice.lm.forward (positive)")
        replace(model, "_update_model_kwargs_for_generation", _pass_ends, "the end of vibevoice.lm.forward (positive)")
        projector = getattr(module, "VibeVoiceMultiModalProjector", None)
        if projector is not None:
            replace(projector, "forward", lambda original: _outside_prefill(Leaf.CONNECTOR, original), "vibevoice.connector")

    def _guidance(self, module: ModuleType) -> None:
        # guidance_scale also makes transformers' generate add its own guidance on the logits: one more unconditional pass a token.
        processor = getattr(module, "UnbatchedClassifierFreeGuidanceLogitsProcessor", None)
        if processor is not None:
            self.hooks.replace(processor, "__call__", _negative, "vibevoice.lm.forward (guidance on the logits)")

    def _frame(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks, known = self.hooks, set[type]()

        def sample_audio_latent(
            self: Any,
            positive: Any,
            negative: Any,
            noise_scheduler: Any,
            num_diffusion_steps: int,
            guidance_scale: float,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            timeline = thread.timeline
            if timeline is None:
                return original(self, positive, negative, noise_scheduler, num_diffusion_steps, guidance_scale, *args, **kwargs)
            at = now()
            timeline.frames.append(at)
            if timeline.device is not None:
                timeline.device.frame(at)
            if timeline.used.steps is None:
                timeline.used.steps, timeline.used.cfg = int(num_diffusion_steps), float(guidance_scale)
            if type(noise_scheduler) not in known:  # any scheduler may be passed in; hook its class when it is first seen
                known.add(type(noise_scheduler))
                hook_scheduler(hooks, type(noise_scheduler))
                semantic = getattr(getattr(self, "model", None), "semantic_tokenizer_encoder", None)
                if semantic is not None:
                    hooks.replace(
                        type(semantic), "forward", lambda o: _outside_prefill(Leaf.SEMANTIC_ENCODE, o), "vibevoice.semantic_encode"
                    )
            return original(self, positive, negative, noise_scheduler, num_diffusion_steps, guidance_scale, *args, **kwargs)

        return sample_audio_latent


def _prefill(original: Callable[..., Any]) -> Callable[..., Any]:
    observed = timed(Leaf.PREFILL, original)

    def prefill(*args: Any, **kwargs: Any) -> Any:
        thread.prefilling = True
        try:
            return observed(*args, **kwargs)
        finally:
            thread.prefilling = False

    return prefill


def _negative_begins(original: Callable[..., Any]) -> Callable[..., Any]:
    """The negative branch's cache is put right at the head of its pass."""

    def reset_negative_cache(*args: Any, **kwargs: Any) -> Any:
        if thread.timeline is not None:
            thread.pass_start = now()
        return original(*args, **kwargs)

    return reset_negative_cache


def _negative(original: Callable[..., Any]) -> Callable[..., Any]:
    def negative_pass(*args: Any, **kwargs: Any) -> Any:
        timeline = thread.timeline
        if timeline is None:
            return original(*args, **kwargs)
        started, thread.pass_start = thread.pass_start or now(), 0
        thread.negative = True
        device = timeline.device
        if device is not None:
            device.seen()  # to choose this branch the model has just read a mask from the device
            device.enter(Leaf.LM_NEGATIVE)
        try:
            return original(*args, **kwargs)
        finally:
            thread.negative = False
            timeline.leave(Leaf.LM_NEGATIVE, started)
            if device is not None:
                device.leave(Leaf.LM_NEGATIVE)

    return negative_pass


def _prepare_pass(original: Callable[..., Any]) -> Callable[..., Any]:
    """A positive pass begins with the preparation of its inputs; the loop that calls both is inline upstream."""

    def prepare_inputs_for_generation(*args: Any, **kwargs: Any) -> Any:
        if thread.timeline is not None and not thread.prefilling and not thread.negative:
            thread.pass_start = now()
        return original(*args, **kwargs)

    return prepare_inputs_for_generation


def _forward(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        timeline = thread.timeline
        if timeline is None or thread.prefilling or thread.negative:
            return original(*args, **kwargs)
        started, thread.pass_start = thread.pass_start or now(), 0
        device = timeline.device
        if device is not None:
            device.enter(Leaf.LM_POSITIVE)
        try:
            return original(*args, **kwargs)
        finally:
            timeline.leave(Leaf.LM_POSITIVE, started)
            if device is not None:
                device.leave(Leaf.LM_POSITIVE)

    return forward


def _pass_ends(original: Callable[..., Any]) -> Callable[..., Any]:
    """A positive pass ends with its caches and masks carried on, which directly follows ``forward``."""

    def update_model_kwargs_for_generation(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        timeline = thread.timeline
        if timeline is not None and not thread.negative and not thread.prefilling:
            passes = timeline.leaves[Leaf.LM_POSITIVE]
            if passes:  # the last pass is younger than the last frame's start, so no drain can be taking it now
                passes[-1] = now()
        return result

    return update_model_kwargs_for_generation


def _outside_prefill(leaf: Leaf, original: Callable[..., Any]) -> Callable[..., Any]:
    """Timed, but not inside the prefill, whose time it would count twice."""
    observed = timed(leaf, original)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if thread.prefilling else observed(*args, **kwargs)

    return wrapper
