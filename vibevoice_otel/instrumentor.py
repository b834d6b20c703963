"""VibeVoiceInstrumentor: the entry point that ``opentelemetry-instrument`` finds. Wiring only.

Importing it imports neither torch nor numpy nor a model: the adapters come when the observed packages load, the
recorder when there is something to record.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from vibevoice_otel import settings
from vibevoice_otel.installation import Installation

if TYPE_CHECKING:
    from vibevoice_otel.hooks.hooks import HookPoint
    from vibevoice_otel.recording.recorder import Recorder

logger = logging.getLogger(__name__)
OTEL_SDK_DISABLED = "OTEL_SDK_DISABLED"
#: Keywords of instrument() that are no settings.
ARGUMENTS = frozenset({"tracer_provider", "meter_provider", "logger_provider", "settings", "recorder_options", "sinks"})


class VibeVoiceInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Observes VibeVoice in this process.

    ``instrument(tracer_provider=, meter_provider=, settings=, sinks=)`` uses the given providers, else the global ones;
    ``sinks`` read every finished record (docs/development.md). A setting may be a keyword too, and wins over its
    variable. Instrumenting twice is harmless. ``uninstrument()`` restores every function.
    """

    #: The section of a configuration file, as opentelemetry-configuration reads it.
    configuration = settings.Options

    _installed: Installation | None = None

    @property
    def recorder(self) -> Recorder | None:
        """The recorder; None while not instrumented, or where it could not be built."""
        with contextlib.suppress(Exception):  # told where it is built
            return self._installed.recorder.ready() if self._installed is not None else None
        return None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing need be installed: hooks wait for the modules that come."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        # The launcher starts instrumentors whatever this says; with it on nothing would be recorded, so nothing is
        # touched.
        if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
            return
        self._installed = Installation(
            lambda: self._read(kwargs),
            kwargs.get("tracer_provider"),
            kwargs.get("meter_provider"),
            {"more": kwargs.get("sinks", ()), **kwargs.get("recorder_options", {})},
        )
        self._installed.put_in()

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

    def _uninstrument(self, **kwargs: Any) -> None:
        del kwargs
        installed, self._installed = self._installed, None
        if installed is not None:
            installed.take_out()

    @property
    def hook_points(self) -> list[HookPoint]:
        """Every function that was wanted so far and whether it was there, for ``vibevoice-otel doctor``."""
        adapters = self._installed.adapters if self._installed is not None else ()
        return [point for adapter in adapters for point in adapter.hooks.points]
