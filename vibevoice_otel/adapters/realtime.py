"""microsoft/VibeVoice's realtime model, in its own WebSocket server (demo/web/app.py) or in any program.

Threads: the service's ``stream`` and the processor run on an asyncio.to_thread worker, ``generate`` and all below it on
a thread of its own, the close of an abandoned stream on the event loop.
"""

from __future__ import annotations

from typing import Any

from vibevoice_otel import semconv
from vibevoice_otel.adapters import upstream
from vibevoice_otel.adapters.surface import Kind
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.timeline import Run


class RealtimeAdapter(upstream.PackagedModel):
    """The realtime model."""

    name = "realtime"
    modeling = "modeling_vibevoice_streaming"
    model = "VibeVoiceStreamingForConditionalGenerationInference"
    kind = Kind.REALTIME
    processor = (
        "vibevoice_streaming_processor",
        "VibeVoiceStreamingProcessor",
        "process_input_with_cached_prompt",
        "vibevoice.preprocess, in a program without the server",
    )

    def _passes(self, model: type) -> None:
        hook_passes(self.hooks, model)


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
