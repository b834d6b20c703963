"""Puts the guards in: the hiding of the spoken text, the last export, several workers, tail sampling."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider

from vibevoice_otel import forking
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.privacy.install import PrivacyGuard
from vibevoice_otel.privacy.query import Redactor
from vibevoice_otel.process import shutdown, workers

if TYPE_CHECKING:
    from vibevoice_otel.deferred import DeferredRecorder
    from vibevoice_otel.recording.recorder import Recorder
    from vibevoice_otel.sampling.tail import TailProcessor
    from vibevoice_otel.settings import Settings


class GuardAdapter:
    """Attaches as what it guards is imported.

    Args:
        settings: the operator's.
        recorder: the recorder, or what builds it when it is needed.
        tracer_provider, meter_provider: None for the global ones.
    """

    def __init__(
        self,
        settings: Settings,
        recorder: DeferredRecorder,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._settings = settings
        self._recorder = recorder
        self._tracers = tracer_provider
        self._meters = meter_provider
        self.hooks = Hooks(shutdown.NAME, recorder.on_drop)
        self.privacy = PrivacyGuard(
            Hooks(shutdown.NAME, recorder.on_drop), self._redactor(), message_spans=settings.websocket_spans
        )
        self.tail: TailProcessor | None = None
        self.export = shutdown.LastExport(lambda: recorder.built, self._providers, settings.shutdown_timeout)

    def _signals(self) -> tuple[Any, ...]:
        """The providers of all signals: they share one identity."""
        return *self._providers(), get_logger_provider()

    def _providers(self) -> tuple[Any, ...]:
        return self._tracers or trace.get_tracer_provider(), self._meters or metrics.get_meter_provider()

    def instrument(self) -> None:
        hooks = self.hooks
        self.tail = self._safely("tail sampling", self._tail)
        self._safely("counting what exporters lose", self._count_losses)
        self._safely("service.instance.id", self._identify)
        self._safely("SIGTERM", lambda: shutdown.SignalGuard(self.export).install(hooks))
        hooks.on_import("uvicorn.server", lambda module: shutdown.hook_uvicorn(hooks, module, self.export))
        hooks.on_import(
            "multiprocessing.util", lambda module: shutdown.hook_multiprocessing(hooks, module, self.export)
        )
        workers.attach(hooks)

    def uninstrument(self) -> None:
        self.hooks.undo()
        if self.tail is not None:
            self.tail.shutdown()

    def ready(self, recorder: Recorder) -> Recorder:
        """The recorder has just been built: the last export shall know of the tail."""
        if self.tail is not None:
            # At exit: after the recorder's end and before the SDK's, whichever was registered when.
            atexit.unregister(recorder.shutdown)
            atexit.register(self.tail.force_flush, int(self._settings.shutdown_timeout * 1000))
            atexit.register(recorder.shutdown, self._settings.shutdown_timeout)
        return recorder

    def _safely(self, what: str, put_in: Callable[[], Any]) -> Any:
        """One guard that cannot be put in costs itself alone."""
        try:
            return put_in()
        except Exception as error:  # noqa: BLE001
            self.hooks.failed(f"the guard of {what}", error)
            return None

    def _redactor(self) -> Redactor:
        def known(name: str) -> bool:
            built = self._recorder.built
            return built is not None and name in built.bounds.voices

        return Redactor(self._settings.routes, known)

    def _identify(self) -> None:
        """Each process has its own service.instance.id and its own counts, or the sums of several workers would be wrong."""
        from vibevoice_otel.sdk.identity import ensure_instance_id  # noqa: PLC0415 - the SDK is there if there is something to name

        ensure_instance_id(self._signals())
        forking.renew_in_child(self._begin_anew)
        if self._settings.worker_instance:
            from vibevoice_otel.process.worker_identity import WorkerIdentity  # noqa: PLC0415 - needs the SDK

            self._identity = WorkerIdentity(self.hooks, self._signals)
            self._identity.instrument()

    def _begin_anew(self) -> None:
        from vibevoice_otel.sdk.identity import begin_anew, ensure_instance_id  # noqa: PLC0415

        ensure_instance_id(self._signals())
        begin_anew(self._providers()[1])

    def _tail(self) -> TailProcessor | None:
        provider: Any = self._providers()[0]
        if not getattr(getattr(provider, "sampler", None), "vibevoice_tail", False):
            return None
        provider.sampler.follow(self._settings)
        from vibevoice_otel.sampling.tail import TailProcessor  # noqa: PLC0415 - for those who chose it
        from vibevoice_otel.sdk.chain import exporting, room  # noqa: PLC0415

        tail = TailProcessor(
            lambda: exporting(provider), slow=self._settings.slo_first_audio, limit=self._settings.tail_buffer,
            on_drop=self._recorder.on_drop, room=room,
        )  # fmt: skip
        provider.add_span_processor(tail)
        return tail

    def _count_losses(self) -> None:
        provider: Any = self._providers()[0]
        if not hasattr(provider, "add_span_processor"):
            return
        from vibevoice_otel.sdk.chain import exporting  # noqa: PLC0415
        from vibevoice_otel.sdk.losses import count_losses  # noqa: PLC0415

        for processor in exporting(provider):
            count_losses(processor, self._recorder.on_drop)
