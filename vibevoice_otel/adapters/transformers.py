"""transformers' native VibeVoice (VibeVoiceForConditionalGeneration), in the embedded service or in any program.

Threads: everything below runs on the thread that called ``generate``.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vibevoice_otel.adapters.shared import service
from vibevoice_otel.adapters.shared.adapter import ModelAdapter
from vibevoice_otel.adapters.shared.audio_queue import hook_streamer
from vibevoice_otel.adapters.shared.diffusion import hook_scheduler
from vibevoice_otel.adapters.shared.generation import hook_generate
from vibevoice_otel.adapters.shared.intervals import times
from vibevoice_otel.adapters.upstream import hook_connector
from vibevoice_otel.hooks.wrappers import Before
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.timeline import Run


class TransformersAdapter(ModelAdapter):
    """Attaches as transformers' VibeVoice modules, and the embedded service's, are imported."""

    name = "transformers"

    def instrument(self) -> None:
        on_import = self.hooks.on_import
        on_import("transformers.models.vibevoice.generation_vibevoice", self._generation)
        on_import("transformers.models.vibevoice.modeling_vibevoice", self._modeling)
        on_import("transformers.generation.logits_process", self._guidance)
        on_import(
            "diffusers.schedulers.scheduling_dpmsolver_multistep",
            lambda m: hook_scheduler(self.hooks, m.DPMSolverMultistepScheduler),
        )
        on_import(
            "vibevoice_otel.service.engine",
            lambda m: service.hook_service(self.hooks, self._recorder, m.StreamingTTSService),
        )
        on_import("vibevoice_otel.service.streamer", lambda m: hook_streamer(self.hooks, m))

    def _generation(self, module: ModuleType) -> None:
        mixin, note = module.VibeVoiceGenerationMixin, self.hooks.note
        note(mixin, "_sample_audio_latent", "vibevoice.frame", self._frame_begins())
        note(mixin, "_decode_audio_latent", "vibevoice.decode", *times(Leaf.DECODE))
        note(mixin, "_step_negative_branch", "vibevoice.lm.forward (negative)", _negative_begins, _negative_ends)
        note(
            mixin,
            "_reset_negative_cache_for_audio_start",
            "the start of vibevoice.lm.forward (negative)",
            _negative_prepared,
        )

    def _modeling(self, module: ModuleType) -> None:
        model, note = module.VibeVoiceForConditionalGeneration, self.hooks.note
        hook_generate(self.hooks, self._recorder, model)
        note(model, "_prefill", "vibevoice.prefill", _prefill_begins, _prefill_ends)
        note(model, "prepare_inputs_for_generation", "the start of vibevoice.lm.forward (positive)", _positive_prepared)
        note(model, "forward", "vibevoice.lm.forward (positive)", _positive_begins, Run.leave)
        note(
            model,
            "_update_model_kwargs_for_generation",
            "the end of vibevoice.lm.forward (positive)",
            _positive_has_run,
            _carried_on,
        )
        projector = getattr(module, "VibeVoiceMultiModalProjector", None)
        if projector is not None:
            hook_connector(self.hooks, projector)

    def _guidance(self, module: ModuleType) -> None:
        # guidance_scale also makes transformers' generate add its own guidance on the logits: one more unconditional
        # pass a token.
        processor = getattr(module, "UnbatchedClassifierFreeGuidanceLogitsProcessor", None)
        if processor is not None:
            self.hooks.note(
                processor, "__call__", "vibevoice.lm.forward (guidance on the logits)", _negative_begins, _negative_ends
            )

    def _frame_begins(self) -> Before:
        hooks, known = self.hooks, set[type]()

        def sampled(
            run: Run,
            model: Any,
            positive: Any,  # noqa: ARG001 - upstream's own parameters, by position or by name
            negative: Any,  # noqa: ARG001
            noise_scheduler: Any,
            num_diffusion_steps: int,
            guidance_scale: float,
            *_: Any,
            **__: Any,
        ) -> None:
            at = now()
            run.frames.append(at)
            if run.device is not None:
                run.device.frame(at)
            if run.used.steps is None:
                run.used.steps, run.used.cfg = int(num_diffusion_steps), float(guidance_scale)
            if (
                type(noise_scheduler) not in known
            ):  # any scheduler may be passed in; hook its class when it is first seen
                known.add(type(noise_scheduler))
                hook_scheduler(hooks, type(noise_scheduler))
                semantic = getattr(getattr(model, "model", None), "semantic_tokenizer_encoder", None)
                if semantic is not None:
                    hooks.note(
                        type(semantic),
                        "forward",
                        "vibevoice.semantic_encode",
                        *times(Leaf.SEMANTIC_ENCODE, outside_prefill=True),
                    )

        return lambda run, args, kwargs: sampled(run, *args, **kwargs)


_prefill_entered, _ = times(Leaf.PREFILL)


def _prefill_begins(run: Run, args: Any, kwargs: Any) -> Any:
    started = _prefill_entered(run, args, kwargs)
    run.prefilling = True
    return started


def _prefill_ends(run: Run, begun: tuple[Leaf, int], result: Any) -> None:
    run.prefilling = False
    run.leave(begun, result)


def _negative_prepared(run: Run, _args: Any, _kwargs: Any) -> None:
    """The negative branch's cache is put right at the head of its pass."""
    run.pass_start = now()


def _negative_begins(run: Run, _args: Any, _kwargs: Any) -> tuple[Leaf, int]:
    started, run.pass_start = run.pass_start or now(), 0
    if run.device is not None:
        run.device.seen()  # to choose this branch the model has just read a mask from the device
        run.device.enter(Leaf.LM_NEGATIVE)
    run.negative = True
    return Leaf.LM_NEGATIVE, started


def _negative_ends(run: Run, begun: tuple[Leaf, int], result: Any) -> None:
    run.negative = False
    run.leave(begun, result)


def _positive_prepared(run: Run, _args: Any, _kwargs: Any) -> None:
    """A positive pass begins with the preparation of its inputs; the loop that calls both is inline upstream."""
    if not run.prefilling and not run.negative:
        run.pass_start = now()


def _positive_begins(run: Run, _args: Any, _kwargs: Any) -> tuple[Leaf, int] | None:
    if run.prefilling or run.negative:
        return None
    started, run.pass_start = run.pass_start or now(), 0
    if run.device is not None:
        run.device.enter(Leaf.LM_POSITIVE)
    return Leaf.LM_POSITIVE, started


def _positive_has_run(run: Run, _args: Any, _kwargs: Any) -> bool | None:
    return True if not run.negative and not run.prefilling and run.leaves[Leaf.LM_POSITIVE] else None


def _carried_on(run: Run, _token: Any, _result: Any) -> None:
    """A positive pass ends with its caches and masks carried on, which directly follows ``forward``."""
    run.leaves[Leaf.LM_POSITIVE][-1] = now()  # younger than the last frame's start, so no drain can be taking it now
