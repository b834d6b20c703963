"""Builds the recorder with its instruments and sinks. Imported when there is something to record, not before."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace

from vibevoice_otel import __version__, semconv
from vibevoice_otel.metrics import gpu, live, nvml
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.sdk import fast
from vibevoice_otel.settings import Settings

if TYPE_CHECKING:
    from vibevoice_otel.page.server import LivePage


def build(
    chosen: Settings,
    tracer_provider: trace.TracerProvider | None,
    meter_provider: metrics.MeterProvider | None,
    adapters: Callable[[], Iterable[str]],
    page: LivePage | None = None,
    **options: Any,
) -> Recorder:
    """A recorder on the given providers (the global ones for None); ``adapters`` names those whose code has been seen."""
    instruments = Instruments(meter_provider, __version__, Limits(chosen.max_attribute_sets, chosen.max_series))

    def dropped(what: str, reason: str, count: int) -> None:
        instruments.add(semconv.DROPPED, count, {"what": what, "reason": reason})

    recorder = Recorder(
        chosen, tracer_provider or trace.get_tracer_provider(), on_drop=dropped, version=__version__, **options
    )
    derive = FromSpans(
        instruments, recorder.bounds.step_labels(), chosen.slo_first_audio, chosen.trace_share, chosen.slo_gap
    )
    recorder.sinks.append(derive)
    recorder.on_voices = derive.start_at_zero
    if chosen.fast_path:
        fast.attach(recorder, instruments)
    live.register(instruments, recorder, __version__, adapters)
    gpu.register(instruments)
    nvml.register(instruments)
    if page is not None:
        tracer = trace.get_tracer(semconv.SCOPE, __version__, tracer_provider, semconv.SCHEMA_URL)
        page.attach(recorder, tracer, instruments, derive.first_audio_good)
    # Registered after the SDK's own, so it runs before them: what is open is ended while the exporters still work.
    atexit.register(recorder.shutdown, chosen.shutdown_timeout)
    return recorder
