"""The long-form model of the same repository (multi-speaker, voices cloned from samples), as the PyPI package vibevoice
0.0.1 has it.

It has no server: a request is one call of ``generate``, and the processor's call before it is its preprocessing.
Threads: everything runs on the thread that calls ``generate``. A batch of scripts is one request; its frame is one step
of all of them together.
"""

from __future__ import annotations

from typing import Any

from vibevoice_otel.adapters import upstream
from vibevoice_otel.adapters.surface import Kind
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.timeline import Run


class LongFormAdapter(upstream.PackagedModel):
    """The long-form model."""

    name = "longform"
    modeling = "modeling_vibevoice"
    model = "VibeVoiceForConditionalGenerationInference"
    kind = Kind.LONGFORM
    processor = "vibevoice_processor", "VibeVoiceProcessor", "__call__", "vibevoice.preprocess of the long-form model"

    def _passes(self, model: type) -> None:
        hook_passes(self.hooks, model)


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
