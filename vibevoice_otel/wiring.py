"""Builds the recorder with its instruments and sinks. Imported when there is something to record, not before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace

from vibevoice_otel import __version__, semconv
from vibevoice_otel.metrics import gpu, live, nvml
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.recording.checks.judge import Judge
from vibevoice_otel.recording.labels import Bounds
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.records import Sink
from vibevoice_otel.recording.spans import SpanEmitter
from vibevoice_otel.sdk import fast
from vibevoice_otel.settings import Settings

if TYPE_CHECKING:
    from vibevoice_otel.page.server import LivePage
    from vibevoice_otel.sampling.tail import TailProcessor


def build(
    chosen: Settings,
    tracer_provider: trace.TracerProvider | None,
    meter_provider: metrics.MeterProvider | None,
    adapters: Callable[[], Iterable[str]],
    page: LivePage | None = None,
    tail: TailProcessor | None = None,
    *,
    stack: contextlib.ExitStack,
    more: Iterable[Sink] = (),
    **options: Any,
) -> Recorder:
    """A recorder on the given providers (the global ones for None).

    Args:
        chosen: the operator's settings.
        tracer_provider: None for the global one.
        meter_provider: the same.
        adapters: names those whose code has been seen.
        page: shows what is recorded.
        tail: decides which traces are kept.
        more: sinks of the program's own.
        stack: takes everything back when it is closed: the recorder first, without a judgement on what is open.
        options: of the recorder.
    """

    def dropped(what: str, reason: str, count: int) -> None:
        instruments.add(semconv.DROPPED, count, {"what": what, "reason": reason})

    tracer = trace.get_tracer(semconv.SCOPE, __version__, tracer_provider, semconv.SCHEMA_URL)
    path = fast.path(tracer, dropped) if chosen.fast_path else None
    if path is not None:
        stack.callback(path.spans.close, chosen.shutdown_timeout)
    instruments = Instruments(
        meter_provider,
        __version__,
        Limits(chosen.max_attribute_sets, chosen.max_series),
        path.metrics if path is not None else None,
    )
    stack.callback(instruments.close)
    step_labels = Bounds(chosen).step_labels()
    derive = FromSpans(instruments, step_labels, chosen.slo_first_audio, chosen.trace_share, chosen.slo_gap)
    sinks: list[Sink] = [Judge(), derive]
    if tail is not None:
        from vibevoice_otel.sampling.tail import TailVerdict  # noqa: PLC0415 - for those who chose it

        sinks.insert(0, TailVerdict(tail))
    if page is not None:
        sinks.append(page.show(tracer, instruments, derive.first_audio_good))
    recorder = Recorder(
        chosen,
        tracer_provider or trace.get_tracer_provider(),
        [*sinks, *more],
        dropped,
        on_voices=derive.start_at_zero,
        emitter=SpanEmitter(tracer, path.spans if path is not None else None),
        **options,
    )
    live.register(instruments, recorder, __version__, adapters)
    gpu.register(instruments)
    nvml.register(instruments)
    stack.callback(recorder.shutdown, chosen.shutdown_timeout, judge=False)
    return recorder
