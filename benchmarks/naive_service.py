"""The embedded service with a span around every operation of the model and a histogram record in it, as one writes it
first.

Run under ``opentelemetry-instrument`` with our own instrumentation off, so that the stock instrumentations do the rest.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from opentelemetry import metrics, trace
from transformers.models.vibevoice.generation_vibevoice import VibeVoiceGenerationMixin
from transformers.models.vibevoice.modeling_vibevoice import VibeVoiceForConditionalGeneration

from vibevoice_otel import semconv
from vibevoice_otel.service.app import create_app

tracer = trace.get_tracer("naive")
meter = metrics.get_meter("naive")
steps = meter.create_histogram(
    semconv.INFERENCE.name, "s", explicit_bucket_boundaries_advisory=list(semconv.STEP_BUCKETS)
)
decodes = meter.create_histogram(
    semconv.DECODE_DURATION.name, "s", explicit_bucket_boundaries_advisory=list(semconv.STEP_BUCKETS)
)
_schedulers: set[type] = set()


def spanned(owner: Any, method: str, name: str, histogram: Any = None) -> None:
    """Replace a method by itself inside a span."""
    original: Callable[..., Any] = getattr(owner, method)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if name == semconv.FRAME.name:
            scheduler = type(kwargs.get("noise_scheduler") or args[3])
            if scheduler not in _schedulers:
                _schedulers.add(scheduler)
                spanned(scheduler, "step", semconv.STEP.name, steps)
        started = time.perf_counter()
        with tracer.start_as_current_span(name, attributes={"vibevoice.voice": "en-Carter_man"}):
            result = original(*args, **kwargs)
            if histogram is not None:
                histogram.record(time.perf_counter() - started, {"voice": "en-Carter_man", "cfg": "1.5", "steps": "5"})
            return result

    setattr(owner, method, wrapper)


spanned(VibeVoiceForConditionalGeneration, "generate", semconv.GENERATE.name)
spanned(VibeVoiceForConditionalGeneration, "forward", semconv.LM_FORWARD.name)
spanned(VibeVoiceGenerationMixin, "_sample_audio_latent", semconv.FRAME.name)
spanned(VibeVoiceGenerationMixin, "_decode_audio_latent", semconv.DECODE.name, decodes)
app = create_app()
