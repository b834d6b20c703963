"""microsoft/VibeVoice's realtime model, in its own WebSocket server (demo/web/app.py) or in any program.

Threads: the service's ``stream`` and the processor run on an asyncio.to_thread worker, ``generate`` and all below it on
a thread of its own, the close of an abandoned stream on the event loop.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from vibevoice_otel import semconv
from vibevoice_otel.adapters import surface, upstream
from vibevoice_otel.adapters.shared import standalone
from vibevoice_otel.adapters.shared.adapter import ModelAdapter
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.timeline import Run

MODEL = "VibeVoiceStreamingForConditionalGenerationInference"


class RealtimeAdapter(ModelAdapter):
    """Attaches as the realtime modules of ``package`` are imported: upstream's, or a copy's under another name."""

    name = "realtime"

    def instrument(self) -> None:
        on_import, package = self.hooks.on_import, self._package
        on_import(f"{package}.modular.modeling_vibevoice_streaming", lambda m: upstream.hook_connector(self.hooks, m))
        on_import(f"{package}.modular.modeling_vibevoice_streaming_inference", self._model)
        self.instrument_parts()

    def instrument_parts(self) -> None:
        """What stands beside the model."""
        self.hooks.on_import(f"{self._package}.processor.vibevoice_streaming_processor", self._processor)

    def _model(self, module: ModuleType) -> None:
        model = getattr(module, MODEL, None) or surface.among(module, surface.Kind.REALTIME)
        model = model or self.hooks.owner(module, MODEL, "everything that the model does")
        if model is not None:
            upstream.hook_model(self.hooks, self._recorder, model)
            hook_passes(self.hooks, model)

    def _processor(self, module: ModuleType) -> None:
        part = "vibevoice.preprocess, in a program without the server"
        hook = functools.partial(standalone.remember, self._recorder)
        self.hooks.replace_in(module, "VibeVoiceStreamingProcessor", "process_input_with_cached_prompt", hook, part)


def hook_passes(hooks: Hooks, model: type, speech: str = "forward_tts_lm") -> None:
    """Hook a window's reading of text and the passes of the speech model, whose method is ``speech``."""
    hooks.note(model, "forward_lm", semconv.PREFILL.name, _window_begins)
    part = "vibevoice.lm.forward, and the end of vibevoice.prefill"
    hooks.note(model, speech, part, _pass_begins, Run.leave)


def _window_begins(run: Run, _args: Any, _kwargs: Any) -> None:
    """A window of text: the text model reads it in forward_lm, the speech model right after, in forward_tts_lm."""
    run.prefilling = True
    run.pass_start = run.pass_start or now()
    if run.device is not None:
        run.device.enter(Leaf.PREFILL)


def _pass_begins(run: Run, _args: Any, _kwargs: Any) -> tuple[Leaf, int]:
    """After forward_lm the end of a prefill; else, once a frame each, the positive and then the negative pass."""
    if run.prefilling:
        run.prefilling = False
        return upstream.pass_begins(run, Leaf.PREFILL, entered=True)
    leaf, run.negative = Leaf.LM_NEGATIVE if run.negative else Leaf.LM_POSITIVE, not run.negative
    return upstream.pass_begins(run, leaf)
