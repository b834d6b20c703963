"""Builds the recorder with its instruments and sinks. Imported when there is something to record, not before."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace

from vibevoice_otel import __version__, failures, semconv
from vibevoice_otel.metrics import gen_ai, gpu, live, nvml
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.recording import ids
from vibevoice_otel.recording.checks.judge import Judge
from vibevoice_otel.recording.labels import Bounds
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.records import IdSource, Labels, Sink
from vibevoice_otel.recording.told import Told
from vibevoice_otel.sampling.budget import SpanBudget
from vibevoice_otel.sdk import fast
from vibevoice_otel.sdk.emitter import SpanEmitter
from vibevoice_otel.sdk.spans import id_generator
from vibevoice_otel.settings import Settings

if TYPE_CHECKING:
    from vibevoice_otel.page.server import LivePage
    from vibevoice_otel.sampling.tail import TailProcessor
    from vibevoice_otel.sdk.span_bytes import FastSpans

#: Entry points whose callables take nothing and return a sink.
SINKS = "vibevoice_otel_sinks"
#: The setting of OpenTelemetry's by which the bounds that an instrument asks for are not heard.
EXPONENTIAL = ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram")
logger = logging.getLogger(__name__)


def recorder(
    settings: Settings,
    provider: trace.TracerProvider,
    sinks: Iterable[Sink] = (),
    on_drop: Callable[[str, str, int], None] = lambda _what, _reason, _count: None,
    *,
    id_source: IdSource | None = None,
    on_voices: Callable[[Labels], None] = lambda _labels: None,
    fast_spans: FastSpans | None = None,
) -> Recorder:
    """A recorder whose spans go to ``provider``.

    The span budget reads each batch first and says which rows are exported; ``sinks`` follow in their order; the
    emitter comes last, so that a slow or failing exporter costs the others nothing.

    Args:
        settings: the operator's.
        provider: the spans'.
        sinks: what else reads every batch.
        on_drop: told (what, reason, count) of anything lost.
        id_source: of spans; the provider's own generator, or numpy's, by default.
        on_voices: told the labels of each voice that the service names.
        fast_spans: a cheaper way to export a batch.
    """
    emitter = SpanEmitter(trace.get_tracer(semconv.SCOPE, __version__, provider, semconv.SCHEMA_URL), fast_spans)
    return Recorder(
        settings,
        emitter,
        (SpanBudget(settings, on_drop), *sinks),
        on_drop,
        id_source or ids.source(id_generator(provider)),
        on_voices,
    )


def _installed_sinks() -> list[Sink]:
    """The sinks of other packages: what the callables of the entry points return. One that fails costs itself alone."""
    found: list[Sink] = []
    for entry in entry_points(group=SINKS):
        try:
            found.append(entry.load()())
        except Exception as error:  # noqa: BLE001, PERF203 - another package's code
            failures.warn_once(f"the sink {entry.name} ({entry.value}): it reads no record", error)
    return found


def _warn_of_lost_bounds() -> None:
    """Say once that the objectives' edges are gone where the SDK is told to make every histogram exponential."""
    if os.environ.get(EXPONENTIAL[0], "").strip().lower() == EXPONENTIAL[1]:
        logger.warning(
            "%s=%s takes the bounds of all histograms away: C50, C100, C200 and shares above an objective are then "
            "estimates; counters and objectives stay exact. Unset it, or give the histograms of docs/telemetry.md a "
            "View with their bounds",
            *EXPONENTIAL,
        )


def _service_version(meter_provider: metrics.MeterProvider | None) -> str | None:
    """The ``service.version`` of the metrics' resource, where there is an SDK and the operator named one."""
    from vibevoice_otel.sdk.identity import resources  # noqa: PLC0415 - the SDK is there where something is collected

    found = (
        each.attributes.get(semconv.M_SERVICE_VERSION.key)
        for each in resources([meter_provider or metrics.get_meter_provider()])
    )
    return next((str(version) for version in found if version), None)


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
    _warn_of_lost_bounds()

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
    verdict: list[Sink] = [tail] if tail is not None else []
    theirs: list[Sink] = [gen_ai.GenAi(instruments.meter)] if gen_ai.opted_in() else []
    shown: list[Sink] = (
        [page.show(tracer, instruments, derive.first_audio_good, derive.continuity_good)] if page is not None else []
    )
    made = recorder(
        chosen,
        tracer_provider or trace.get_tracer_provider(),
        # The tail's verdict says whether the trace is exported, and an exemplar may name nothing else. The judge of
        # speech writes on the records what the others read, a policy that asked among them. The metrics read every row,
        # exported or not. The page keeps
        # the records as the metrics read them. A program's own sinks come after ours, so that a slow one delays no
        # measurement.
        [*verdict, Judge(), derive, Told(), *theirs, *shown, *more, *_installed_sinks()],
        dropped,
        on_voices=derive.start_at_zero,
        fast_spans=path.spans if path is not None else None,
        **options,
    )
    cards = nvml.Cards()
    running = live.Running(__version__, adapters, lambda: _service_version(meter_provider), cards.drivers)
    live.register(instruments, made, running)
    gpu.register(instruments)
    nvml.register(instruments, cards)
    stack.callback(made.shutdown, chosen.shutdown_timeout, judge=False)
    return made
