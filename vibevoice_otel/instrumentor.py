"""VibeVoiceInstrumentor: the entry point that ``opentelemetry-instrument`` finds. Wiring only.

Importing it imports neither torch nor a model; hooks attach as the observed modules load.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Collection
from typing import Any, Protocol

from opentelemetry import metrics, trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from vibevoice_otel import __version__, semconv, settings
from vibevoice_otel.adapters.hooks import HookPoint, Hooks
from vibevoice_otel.adapters.realtime import RealtimeAdapter
from vibevoice_otel.adapters.transformers import TransformersAdapter
from vibevoice_otel.metrics import live
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.web.install import WebAdapter

logger = logging.getLogger(__name__)


class Adapter(Protocol):
    """A system that is observed."""

    hooks: Hooks

    def instrument(self) -> None: ...
    def uninstrument(self) -> None: ...


class VibeVoiceInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Observes VibeVoice in this process.

    ``instrument(tracer_provider=, meter_provider=, settings=)`` uses the given providers, else the global ones. Instrumenting
    twice is harmless. ``uninstrument()`` restores every function.
    """

    recorder: Recorder | None = None
    _adapters: tuple[Adapter, ...] = ()

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing need be installed: hooks wait for the modules that come."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        try:
            chosen = kwargs.get("settings") or settings.load()
        except settings.SettingsError as error:
            for problem in error.problems:
                logger.error(  # noqa: TRY400 - the sentence says it all
                    "%s. The service runs without VibeVoice telemetry until it is mended.", problem
                )
            return
        try:
            self._wire(chosen, kwargs.get("tracer_provider"), kwargs.get("meter_provider"), **kwargs.get("recorder_options", {}))
        except Exception:
            logger.exception("VibeVoice telemetry could not start; the service runs without it")

    def _wire(
        self,
        chosen: settings.Settings,
        tracer_provider: trace.TracerProvider | None,
        meter_provider: metrics.MeterProvider | None,
        **options: Any,
    ) -> None:
        instruments = Instruments(meter_provider, __version__, Limits(chosen.max_attribute_sets, chosen.max_series))

        def dropped(what: str, reason: str, count: int) -> None:
            instruments.add(semconv.DROPPED, count, {"what": what, "reason": reason})

        recorder = Recorder(chosen, tracer_provider or trace.get_tracer_provider(), on_drop=dropped, version=__version__, **options)
        recorder.sinks.append(FromSpans(instruments, recorder.bounds.step_labels(), chosen.slo_first_audio))
        adapters: tuple[Adapter, ...] = (TransformersAdapter(recorder), RealtimeAdapter(recorder), WebAdapter(recorder))
        live.register(instruments, recorder, __version__, lambda: sorted({a.hooks.adapter for a in adapters if a.hooks.modules} - {"web"}))
        for adapter in adapters:
            adapter.instrument()
        self.recorder, self._adapters = recorder, adapters
        # Registered after the SDK's own, so it runs before them: what is open is ended while the exporters still work.
        atexit.register(recorder.shutdown, chosen.shutdown_timeout)

    def _uninstrument(self, **kwargs: Any) -> None:
        del kwargs
        for adapter in self._adapters:
            adapter.uninstrument()
        if self.recorder is not None:
            self.recorder.shutdown()
            atexit.unregister(self.recorder.shutdown)
        self.recorder, self._adapters = None, ()

    @property
    def hook_points(self) -> list[HookPoint]:
        """Every function that was wanted so far and whether it was there, for ``vibevoice-otel doctor``."""
        return [point for adapter in self._adapters for point in adapter.hooks.points]
