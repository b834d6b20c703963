"""VibeVoiceInstrumentor: the entry point that ``opentelemetry-instrument`` finds. Wiring only.

Importing it imports neither torch nor numpy nor a model: the adapters come when the observed packages load, the recorder when
there is something to record.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol, cast

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from wrapt.importer import register_post_import_hook  # type: ignore[import-untyped]

from vibevoice_otel import settings
from vibevoice_otel.deferred import DeferredRecorder
from vibevoice_otel.privacy.logs import be_heard
from vibevoice_otel.process.install import GuardAdapter
from vibevoice_otel.process.metrics_page import MetricsPages
from vibevoice_otel.web.install import WebAdapter

if TYPE_CHECKING:
    from vibevoice_otel.hooks.hooks import HookPoint, Hooks
    from vibevoice_otel.page.server import LivePage
    from vibevoice_otel.recording.recorder import Recorder

logger = logging.getLogger(__name__)
OTEL_SDK_DISABLED = "OTEL_SDK_DISABLED"
#: Keywords of instrument() that are no settings.
ARGUMENTS = frozenset({"tracer_provider", "meter_provider", "logger_provider", "settings", "recorder_options"})
#: The packages whose import says that this program speaks. A package is imported before the modules in it, which hold the hooks.
PACKAGES = ("transformers.models.vibevoice", "vibevoice", "vibevoice_otel.service")


class Adapter(Protocol):
    """A system that is observed."""

    hooks: Hooks

    def instrument(self) -> None: ...
    def uninstrument(self) -> None: ...


class VibeVoiceInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Observes VibeVoice in this process.

    ``instrument(tracer_provider=, meter_provider=, settings=)`` uses the given providers, else the global ones. A setting may be
    a keyword too, and wins over its variable. Instrumenting twice is harmless. ``uninstrument()`` restores every function.
    """

    #: The section of a configuration file, as opentelemetry-configuration reads it.
    configuration = settings.Options

    _deferred: DeferredRecorder | None = None
    _adapters: tuple[Adapter, ...] = ()
    _models_seen: bool = False

    @property
    def recorder(self) -> Recorder | None:
        """The recorder, None while not instrumented."""
        return self._deferred.ready() if self._deferred is not None else None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing need be installed: hooks wait for the modules that come."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        # The launcher starts instrumentors whatever this says; with it on nothing would be recorded, so nothing is touched.
        if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
            return
        be_heard()
        reading = self._read(kwargs)
        chosen = reading.settings
        pages = MetricsPages(chosen, lambda *_: None, closed=bool(reading.refused))
        self._adapters = (pages,)
        try:
            pages.instrument()  # a token that is set holds with telemetry off too
            if reading.enabled and not reading.problems:
                self._wire(chosen, kwargs)
        except Exception:
            logger.exception("VibeVoice telemetry could not start; the service runs without it")

    @staticmethod
    def _read(kwargs: dict[str, Any]) -> settings.Reading:
        """The settings, every doubt about them logged."""
        if kwargs.get("settings"):
            return settings.Reading(kwargs["settings"], [], [], [])
        options = {name: value for name, value in kwargs.items() if name not in ARGUMENTS}
        options |= options.pop("misspelt", None) or {}
        reading = settings.read(options=options)
        for problem in reading.problems:
            logger.error("%s. The service runs without VibeVoice telemetry until it is mended.", problem)
        if reading.refused:
            logger.error(
                "%s. Until it is mended the live page and /metrics are closed and no text is captured; the rest holds.",
                "; ".join(reading.refused),
            )
        for warning in reading.warnings:
            logger.warning("%s. It changes nothing.", warning)
        return reading

    def _wire(self, chosen: settings.Settings, kwargs: dict[str, Any]) -> None:
        providers = kwargs.get("tracer_provider"), kwargs.get("meter_provider")

        def build() -> Recorder:
            from vibevoice_otel import wiring  # noqa: PLC0415 - numpy and the SDK's metrics, for those who speak

            return guard.ready(
                wiring.build(chosen, *providers, self._names, page, guard.tail, **kwargs.get("recorder_options", {}))
            )

        self._deferred = DeferredRecorder(chosen, build)
        guard = GuardAdapter(chosen, self._deferred, *providers)
        page = self._page(chosen, self._deferred)
        before = page.scope if page is not None else None
        web = WebAdapter(cast("Recorder", self._deferred), before, self._find_services)
        # The hiding of the text goes in first and leaves last.
        added: tuple[Adapter, ...] = (guard.privacy, guard, web, *((page,) if page is not None else ()))
        self._adapters = (*self._adapters, *added)
        for adapter in added:
            adapter.instrument()
        for package in PACKAGES:
            if package in sys.modules:
                self._observe_models()
            else:
                register_post_import_hook(lambda _module: self._observe_models(), package)

    @staticmethod
    def _page(chosen: settings.Settings, recorder: DeferredRecorder) -> LivePage | None:
        """The live page where the operator asked for it; without that nothing of it is imported."""
        if not chosen.page:
            return None
        from vibevoice_otel.page.server import LivePage  # noqa: PLC0415

        return LivePage(chosen, recorder.on_drop, recorder.ready)

    def _observe_models(self) -> None:
        """A package of an observed model is being imported: put the adapters' own hooks in place before its modules come."""
        if self._deferred is None or self._models_seen:
            return
        self._models_seen = True
        try:
            from vibevoice_otel.adapters.longform import LongFormAdapter  # noqa: PLC0415
            from vibevoice_otel.adapters.realtime import RealtimeAdapter  # noqa: PLC0415
            from vibevoice_otel.adapters.transformers import TransformersAdapter  # noqa: PLC0415
            from vibevoice_otel.adapters.upstream import UpstreamAdapter  # noqa: PLC0415

            recorder = self._deferred.ready()
            kinds = (TransformersAdapter, UpstreamAdapter, RealtimeAdapter, LongFormAdapter)
            models: tuple[Adapter, ...] = tuple(kind(recorder) for kind in kinds)
            self._adapters = (*self._adapters, *models)
            for adapter in models:
                adapter.instrument()
        except Exception:
            logger.exception("VibeVoice telemetry could not start; the service runs without it")

    def _find_services(self) -> None:
        """An application starts: what it was made of has been imported, and its service not yet begun to load."""
        for adapter in self._adapters:
            find = getattr(adapter, "find_services", None)
            if find is not None:
                find()

    def _names(self) -> list[str]:
        return sorted(
            {adapter.hooks.adapter for adapter in self._adapters if adapter.hooks.modules}
            - {"web", "page", "metrics page"}
        )

    def _uninstrument(self, **kwargs: Any) -> None:
        del kwargs
        for adapter in reversed(self._adapters):
            adapter.uninstrument()
        built = self._deferred.built if self._deferred is not None else None
        if built is not None:
            built.shutdown()
            atexit.unregister(built.shutdown)
        self._deferred, self._adapters, self._models_seen = None, (), False

    @property
    def hook_points(self) -> list[HookPoint]:
        """Every function that was wanted so far and whether it was there, for ``vibevoice-otel doctor``."""
        return [point for adapter in self._adapters for point in adapter.hooks.points]
