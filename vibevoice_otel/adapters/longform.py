"""The long-form model of the same repository (multi-speaker, voices cloned from samples), as the PyPI package vibevoice
0.0.1 has it.

It has no server: a request is one call of ``generate``, and the processor's call before it is its preprocessing.
Threads: everything runs on the thread that calls ``generate``. A batch of scripts is one request; its frame is one step
of all of them together.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from vibevoice_otel.adapters import surface, upstream
from vibevoice_otel.adapters.shared import standalone
from vibevoice_otel.adapters.shared.adapter import ModelAdapter
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.timeline import Run

MODEL = "VibeVoiceForConditionalGenerationInference"


class LongFormAdapter(ModelAdapter):
    """Attaches as the long-form model's modules of ``package`` are imported: upstream's, or a copy's under another
    name.
    """

    name = "longform"

    def instrument(self) -> None:
        self.hooks.on_import(f"{self._package}.modular.modeling_vibevoice_inference", self._model)
        self.instrument_parts()

    def instrument_parts(self) -> None:
        """What stands beside the model."""
        self.hooks.on_import(f"{self._package}.processor.vibevoice_processor", self._processor)

    def _model(self, module: ModuleType) -> None:
        model = getattr(module, MODEL, None) or surface.among(module, surface.Kind.LONGFORM)
        model = model or self.hooks.owner(module, MODEL, "everything that the model does")
        if model is None:
            return
        upstream.hook_model(self.hooks, self._recorder, model)
        hook_passes(self.hooks, model)
        # Other models of the package have this module too, so it is hooked on account of this one.
        where = f"{self._package}.modular.modeling_vibevoice"
        self.hooks.on_import(where, lambda m: upstream.hook_connector(self.hooks, m))

    def _processor(self, module: ModuleType) -> None:
        part = "vibevoice.preprocess of the long-form model"
        hook = functools.partial(standalone.remember, self._recorder)
        self.hooks.replace_in(module, "VibeVoiceProcessor", "__call__", hook, part)


def hook_passes(hooks: Hooks, model: type) -> None:
    """Hook the language model's passes."""
    hooks.note(model, "forward", "vibevoice.lm.forward and vibevoice.prefill", _pass_begins, _pass_ends)


def _pass_begins(run: Run, _args: Any, kwargs: dict[str, Any]) -> tuple[Leaf, int]:
    """The prefill alone brings the voices' samples; a negative pass keeps the logits of all positions, a positive one
    only the last.
    """
    if "speech_tensors" not in kwargs:
        return upstream.pass_begins(run, Leaf.LM_POSITIVE if kwargs.get("logits_to_keep") else Leaf.LM_NEGATIVE)
    run.prefilling = True
    return upstream.pass_begins(run, Leaf.PREFILL)


def _pass_ends(run: Run, begun: tuple[Leaf, int], result: Any) -> None:
    run.prefilling = False
    run.leave(begun, result)
