"""Everything that one ``instrument()`` puts into the process, in one stack: it leaves in reverse order.

What cannot be taken back is on this list, passes everything on, holds nothing of ours and does not grow: one fork
handler (forking.py), one import hook a module (hooks/imports.py), one callback an observable instrument
(metrics/instruments.py), our functions and layers inside others' wrappers (hooks.py, web/install.py), the tail
processor (sampling/tail.py), instruments that a meter has made, the service.instance.id of a resource, and the routes
that have spoken (routes.py). A metrics page that was guarded stays so where it cannot be opened as it was.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider

from vibevoice_otel import failures, forking
from vibevoice_otel.adapters.surface import Kind, ModelWatch
from vibevoice_otel.deferred import DeferredRecorder
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.hooks.imports import when_imported
from vibevoice_otel.privacy.install import PrivacyGuard
from vibevoice_otel.privacy.logs import install_fallback
from vibevoice_otel.privacy.query import Redactor
from vibevoice_otel.process import shutdown, workers
from vibevoice_otel.process.metrics_page import MetricsPages
from vibevoice_otel.web.flask import FlaskAdapter
from vibevoice_otel.web.install import WebAdapter

if TYPE_CHECKING:
    from vibevoice_otel.page.server import LivePage
    from vibevoice_otel.recording.recorder import Recorder
    from vibevoice_otel.sampling.tail import TailProcessor
    from vibevoice_otel.settings import Reading

logger = logging.getLogger(__name__)
#: The packages whose import says that this program speaks. A package is imported before the modules in it, which hold
#: the hooks.
PACKAGES = ("transformers.models.vibevoice", "vibevoice", "vibevoice_otel.service")
#: Adapters that no model needs.
PROCESS = frozenset({"web", "page", "metrics page", "models"})
Undo = Callable[[], object]


class Adapter(Protocol):
    """A system that is observed. All that it puts in stands in its hooks, whose undo() takes it out."""

    hooks: Hooks

    def instrument(self) -> None: ...


class Installation:
    """Puts in what the settings ask for, and takes it out.

    Args:
        read: reads the settings, and says whether they may be used. What it logs is seen.
        tracer_provider: None for the global one.
        meter_provider: the same.
        options: of wiring.build.
    """

    def __init__(
        self,
        read: Callable[[], Reading],
        tracer_provider: trace.TracerProvider | None,
        meter_provider: metrics.MeterProvider | None,
        options: dict[str, Any],
    ) -> None:
        self._undo: list[tuple[str, Undo]] = [("log lines", install_fallback())]
        self._reading = read()
        self._settings = self._reading.settings
        self._tracers, self._meters = tracer_provider, meter_provider
        self._options = options
        self._tail: TailProcessor | None = None
        self._page: LivePage | None = None
        self._models_seen = False
        self.adapters: list[Adapter] = []
        self.recorder = DeferredRecorder(self._settings, self._build)
        self._built = contextlib.ExitStack()  # what the recorder was built with; the recorder goes last
        self._built.callback(self.recorder.close)
        self._last_export = shutdown.LastExport(
            lambda: self.recorder.built, self._providers, self._settings.shutdown_timeout
        )

    def put_in(self) -> None:
        """Each part that cannot be put in costs itself alone.

        The hiding of the text goes in first, and whatever the settings are worth, and leaves last. So do the guards of
        /metrics.
        """
        refused, on_drop = bool(self._reading.refused), self.recorder.on_drop
        observes = self._reading.enabled and not self._reading.problems
        if not observes:
            self.recorder.close()
        if self._reading.enabled:
            redactor = Redactor(self._settings.routes, self._is_voice)
            message_spans = self._settings.websocket_spans or not observes
            guard = PrivacyGuard(Hooks(shutdown.NAME, on_drop), redactor, message_spans=message_spans)
            self._adapt("the hiding of the text", guard, guard.leave)
        self._adapt("/metrics", MetricsPages(self._settings, on_drop, closed=refused))
        if not observes:
            return
        self._enter("tail sampling", self._put_tail)
        self._enter("counting what exporters lose", self._count_losses)
        self._enter("service.instance.id", self._identify)
        self._enter("the recorder", lambda: self._built.close)
        self._enter("the last export", self._put_last_export)
        if self._settings.page:
            self._enter("the live page", self._put_page)
        before = self._page.scope if self._page is not None else None
        # As an application starts, what it was made of has been imported, and its service not yet begun to load.
        self._adapt("the web", WebAdapter(self.recorder, before, lambda: self._tell("find_services")))
        self._adapt("Flask", FlaskAdapter(self.recorder, before))
        self._adapt("models of forks", ModelWatch(self.recorder.on_drop, self._model_defined))
        named = self._settings.model.partition(":")[0]
        for package in (*PACKAGES, *((named,) if named else ())):
            self._enter(package, lambda package=package: when_imported(package, lambda _: self._observe_models()))  # type: ignore[misc]

    def take_out(self) -> None:
        """Take out what is in, the last first. Each part that cannot be taken out costs itself alone."""
        while self._undo:
            what, undo = self._undo.pop()
            failures.attempt(self.recorder.on_drop, f"taking out {what}", undo)
        self.adapters.clear()

    def _enter(self, what: str, put_in: Callable[[], Undo | None]) -> None:
        undo = failures.attempt(self.recorder.on_drop, f"putting in {what}", put_in)
        if undo is not None:
            self._undo.append((what, undo))

    def _adapt(self, what: str, adapter: Adapter, leave: Undo | None = None) -> None:
        self.adapters.append(adapter)
        self._undo.append((what, leave or adapter.hooks.undo))  # also what has been put in by half
        self._enter(what, adapter.instrument)

    def _providers(self) -> tuple[Any, ...]:
        return self._tracers or trace.get_tracer_provider(), self._meters or metrics.get_meter_provider()

    def _is_voice(self, name: str) -> bool:
        built = self.recorder.built
        return built is not None and name in built.bounds.voices

    # ----------------------------------------------------------------------------------------------------- the recorder

    def _build(self) -> Recorder:
        from vibevoice_otel import wiring  # noqa: PLC0415 - numpy and the SDK's metrics, only where speech is observed

        try:
            recorder = wiring.build(
                self._settings, self._tracers, self._meters, self._names, self._page, self._tail, stack=self._built,
                **self._options,
            )  # fmt: skip
        except Exception:
            logger.exception("VibeVoice telemetry could not start; the service runs without it")
            raise
        # Registered after the SDK's own, so it runs before them: what is open is ended while the exporters still work.
        self._built.callback(atexit.unregister, self._at_exit)
        atexit.register(self._at_exit)
        return recorder

    def _at_exit(self) -> None:
        """The one handler of the process's end, in this order: the recorder, whose spans the tail then hands over."""
        built = self.recorder.built
        if built is not None:
            built.shutdown(self._settings.shutdown_timeout)
        if self._tail is not None:
            self._tail.force_flush(int(self._settings.shutdown_timeout * 1000))
        self._last_export.leave_late()

    def _names(self) -> Sequence[str]:
        return sorted({adapter.hooks.adapter for adapter in self.adapters if adapter.hooks.modules} - PROCESS)

    # ------------------------------------------------------------------------------------------------------ the process

    def _put_last_export(self) -> Undo:
        hooks = Hooks(shutdown.NAME, self.recorder.on_drop)
        export = self._last_export
        shutdown.SignalGuard(export).install(hooks)
        hooks.on_import("uvicorn.server", lambda module: shutdown.hook_uvicorn(hooks, module, export))
        hooks.on_import("multiprocessing.util", lambda module: shutdown.hook_multiprocessing(hooks, module, export))
        workers.attach(hooks)
        return hooks.undo

    def _put_page(self) -> None:
        """The live page where the operator asked for it; without that nothing of it is imported."""
        from vibevoice_otel.page.server import LivePage  # noqa: PLC0415

        self._page = LivePage(self._settings, self.recorder.on_drop, self.recorder.ready)
        self._adapt("the live page", self._page)

    def _signals(self) -> tuple[Any, ...]:
        """The providers of all signals: they share one identity."""
        return *self._providers(), get_logger_provider()

    def _identify(self) -> Undo | None:
        """Each process has its own service.instance.id and its own counts, or the sums of several workers would be
        wrong.
        """
        from vibevoice_otel.sdk.identity import ensure_instance_id  # noqa: PLC0415 - the SDK is there if there is something to name

        ensure_instance_id(self._signals())
        forking.renew_in_child(self._begin_anew)
        if not self._settings.worker_instance:
            return None
        from vibevoice_otel.process.worker_identity import WorkerIdentity  # noqa: PLC0415 - needs the SDK

        hooks = Hooks(shutdown.NAME, self.recorder.on_drop)
        self._identity = WorkerIdentity(hooks, self._signals)
        self._identity.instrument()
        return hooks.undo

    def _begin_anew(self) -> None:
        from vibevoice_otel.sdk.identity import begin_anew, ensure_instance_id  # noqa: PLC0415

        if self._undo:  # still in
            ensure_instance_id(self._signals())
            begin_anew(self._providers()[1])

    def _put_tail(self) -> Undo | None:
        provider: Any = self._providers()[0]
        if not getattr(getattr(provider, "sampler", None), "vibevoice_tail", False):
            return None
        provider.sampler.follow(self._settings)
        from vibevoice_otel.sampling.tail import TailProcessor  # noqa: PLC0415 - loaded where it is chosen
        from vibevoice_otel.sdk import chain  # noqa: PLC0415

        slow, limit, on_drop = self._settings.slo_first_audio, self._settings.tail_buffer, self.recorder.on_drop
        known = [each for each in chain.members(provider) if isinstance(each, TailProcessor)]
        if known:
            tail = known[0]
            tail.resume(slow=slow, limit=limit, on_drop=on_drop)
        else:
            tail = TailProcessor(
                lambda: chain.exporting(provider), slow=slow, limit=limit, on_drop=on_drop, room=chain.room
            )
            provider.add_span_processor(tail)
        self._tail = tail
        return lambda: tail.pause(self._settings.shutdown_timeout)

    def _count_losses(self) -> Undo | None:
        provider: Any = self._providers()[0]
        if not hasattr(provider, "add_span_processor"):
            return None
        from vibevoice_otel.sdk.chain import exporting  # noqa: PLC0415
        from vibevoice_otel.sdk.losses import count_losses  # noqa: PLC0415

        hooks = Hooks(shutdown.NAME, self.recorder.on_drop)
        for processor in exporting(provider):
            count_losses(hooks, processor)
        return hooks.undo

    # ------------------------------------------------------------------------------------------------------- the models

    def _tell(self, what: str, *about: Any) -> None:
        """Call ``what`` of the adapters that have it."""
        for adapter in self.adapters:
            tell = getattr(adapter, what, None)
            if tell is not None:
                tell(*about)

    def _model_defined(self, model: type, kind: Kind) -> None:
        """A class with a model's surface has been defined somewhere, or is being loaded."""
        self._observe_models()
        self._tell("attach", model, kind)

    def _observe_models(self) -> None:
        """A package of an observed model is being imported: put the adapters' own hooks in place before its modules
        come.
        """
        if self._models_seen:
            return
        self._models_seen = True
        try:
            recorder = self.recorder.ready()
            from vibevoice_otel.adapters.forks import ForksAdapter  # noqa: PLC0415
            from vibevoice_otel.adapters.longform import LongFormAdapter  # noqa: PLC0415
            from vibevoice_otel.adapters.realtime import RealtimeAdapter  # noqa: PLC0415
            from vibevoice_otel.adapters.transformers import TransformersAdapter  # noqa: PLC0415
            from vibevoice_otel.adapters.upstream import UpstreamAdapter  # noqa: PLC0415
        except Exception:
            if self.recorder.built is not None:  # else told where it is built
                logger.exception("VibeVoice telemetry could not start; the service runs without it")
            return
        for kind in (TransformersAdapter, UpstreamAdapter, RealtimeAdapter, LongFormAdapter, ForksAdapter):
            adapter: Adapter = kind(recorder)
            self._adapt(f"the hooks of {adapter.hooks.adapter}", adapter)
