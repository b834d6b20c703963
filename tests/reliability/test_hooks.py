"""Every hook made to fail, in turn: the service answers as without it, the failure is counted and logged once."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from tests.support.metrics import dropped
from vibevoice_otel import failures
from vibevoice_otel.hooks import hooks as hooks_module
from vibevoice_otel.hooks import wrappers
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.process import shutdown
from vibevoice_otel.service.engine import StreamingTTSService
from vibevoice_otel.service.settings import ServiceSettings
from vibevoice_otel.settings import Settings

TEXT = "hi"


class Broken(Exception):
    """A mistake of ours; its message quotes what must not be told."""

    def __init__(self) -> None:
        super().__init__("canary7f3a")


class Saboteur:
    """Stands where hooks are made; breaks those whose function has the chosen name, before or after it has called the
    original.
    """

    def __init__(self) -> None:
        self.where, self.when = "", ""
        self.broke = 0
        self.called: set[str] = set()
        self.first: frozenset[str] = frozenset()  # at a service's making and its first request

    def guarded(self, original: Any, make: Callable[[Any], Any], failed: Any) -> Any:
        name = f"{getattr(original, '__module__', '')}.{getattr(original, '__qualname__', '')}"

        def broken(tracked: Any) -> Any:
            hook = make(tracked)

            def run(*args: Any, **kwargs: Any) -> Any:
                self.called.add(name)
                if self.where != name:
                    return hook(*args, **kwargs)
                if self.when == "before":
                    self.broke += 1
                    raise Broken
                try:
                    return hook(*args, **kwargs)
                finally:
                    self.broke += 1
                    raise Broken

            return run

        return wrappers.guarded(original, broken, failed)

    def noted(self, original: Any, before: Any, after: Any, failed: Any, here: Any, find: Any = None) -> Any:
        name = f"{getattr(original, '__module__', '')}.{getattr(original, '__qualname__', '')}"

        def broken_before(*args: Any) -> Any:
            self.called.add(name)
            token = None if self.where == name and self.when == "before" else True if before is None else before(*args)
            if self.where == name and (token is None or after is None):
                self.broke += 1
                raise Broken
            return token

        def broken_after(*args: Any) -> None:
            after(*args)
            if self.where == name:
                self.broke += 1
                raise Broken

        return wrappers.noted(original, broken_before, broken_after if after is not None else None, failed, here, find)


@pytest.fixture(scope="module")
def observed() -> Iterator[tuple[Saboteur, StreamingTTSService, InMemoryMetricReader]]:
    """The embedded engine in this process, hooked, with a saboteur at every hook."""
    saboteur, reader = Saboteur(), InMemoryMetricReader()
    original = hooks_module.guarded, hooks_module.noted
    hooks_module.guarded, hooks_module.noted = saboteur.guarded, saboteur.noted  # type: ignore[assignment]
    meters = MeterProvider([reader])
    instrumentor = VibeVoiceInstrumentor()
    instrumentor.instrument(
        tracer_provider=TracerProvider(), meter_provider=meters, settings=Settings(), skip_dep_check=True
    )
    service = StreamingTTSService(ServiceSettings(steps=1))
    list(service.stream(TEXT))
    saboteur.first = frozenset(saboteur.called)
    saboteur.called.clear()
    yield saboteur, service, reader
    instrumentor.uninstrument()
    hooks_module.guarded, hooks_module.noted = original  # type: ignore[assignment]
    meters.shutdown()


@pytest.mark.swallows("Broken")
def test_every_hook_may_fail(
    observed: tuple[Saboteur, StreamingTTSService, InMemoryMetricReader], caplog: pytest.LogCaptureFixture
) -> None:
    """Each function that is hooked, broken before the original and on the way out of it: the same audio, counted, told
    once. What runs when a service is made or loads its model is broken in a new one; what runs when a model's class
    is defined, which is once a process, in a class of its own.
    """
    saboteur, service, reader = observed
    healthy = [chunk.size for chunk in service.stream(TEXT)]
    assert len(healthy) >= 4
    assert len(saboteur.called) >= 15, saboteur.called
    later = frozenset(saboteur.called)
    defined = {name for name in saboteur.first if name.endswith("__init_subclass__")}
    for name in sorted((saboteur.first | later) - defined):
        for when in ("before", "finally"):
            saboteur.where, saboteur.when, saboteur.broke = name, when, 0
            failures._logged.clear()
            caplog.clear()
            count = dropped(reader, "hook_error")
            with caplog.at_level(logging.WARNING):
                audio = list((service if name in later else StreamingTTSService(ServiceSettings(steps=1))).stream(TEXT))
            assert [chunk.size for chunk in audio] == healthy, f"{name} {when}"
            assert all(np.isfinite(chunk).all() for chunk in audio)
            assert saboteur.broke, f"{name} {when}"
            assert dropped(reader, "hook_error") - count == saboteur.broke, f"{name} {when}"
            told = [record for record in caplog.records if record.name == "vibevoice_otel.failures"]
            assert len(told) == 1, f"{name} {when}"
            assert "canary7f3a" not in told[0].getMessage()
    for name in defined:
        from transformers import PreTrainedModel

        for when in ("before", "finally"):
            saboteur.where, saboteur.when, saboteur.broke = name, when, 0
            assert issubclass(type("Another", (PreTrainedModel,), {}), PreTrainedModel)
            assert saboteur.broke, f"{name} {when}"
    saboteur.where = ""
    print(f"{len(saboteur.first | later)} hooked functions, broken in two ways each")


def test_the_services_own_exceptions_pass(observed: tuple[Saboteur, StreamingTTSService, InMemoryMetricReader]) -> None:
    """What the original raises reaches the caller, the same object, hook broken or not."""
    own = RuntimeError("the service's own")

    def original() -> None:
        raise own

    for broken in (False, True):
        failed: list[BaseException] = []

        def make(tracked: Any, broken: bool = broken) -> Any:
            def hook() -> Any:
                try:
                    return tracked()
                finally:
                    if broken:
                        raise Broken

            return hook

        with pytest.raises(RuntimeError) as raised:
            wrappers.guarded(original, make, failed.append)()
        assert raised.value is own
        assert len(failed) == broken


@pytest.mark.swallows("the diffusion scheduler's step")
def test_a_step_whose_note_fails_is_taken(observed: tuple[Saboteur, StreamingTTSService, InMemoryMetricReader]) -> None:
    """The hottest hook sees to itself: a note that raises costs the note."""
    from vibevoice_otel.recording import timeline as timeline_module

    _, service, reader = observed

    class Full(list):  # type: ignore[type-arg]
        def append(self, _item: Any) -> None:
            raise MemoryError

    before, healthy = dropped(reader, "hook_error"), [chunk.size for chunk in service.stream(TEXT)]
    original = timeline_module.Run.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.steps = Full()

    timeline_module.Run.__init__ = init  # type: ignore[method-assign]
    try:
        assert [chunk.size for chunk in service.stream(TEXT)] == healthy
    finally:
        timeline_module.Run.__init__ = original  # type: ignore[method-assign]
    assert dropped(reader, "hook_error") > before


@pytest.mark.swallows("the last export failed")
def test_the_end_of_a_service_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last export breaks, at every point of it, uvicorn's shutdown is done all the same, and a signal ends
    the process.
    """

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise Broken

    async def original(server: Any) -> str:
        return f"{server} is down"

    for name in ("closing", "flush"):
        with monkeypatch.context() as patch:
            export = shutdown.LastExport(lambda: None, lambda: (), 1.0)
            patch.setattr(export, name, broken)
            assert asyncio.run(shutdown._shutdown(export, original, "the server")) == "the server is down"
    for name in ("used", "flush"):
        with monkeypatch.context() as patch:
            export = shutdown.LastExport(lambda: None, lambda: (), 1.0)
            patch.setattr(export, name, broken)
            raised: list[int] = []
            patch.setattr(shutdown.signal, "signal", lambda *_args: None)
            patch.setattr(shutdown.signal, "raise_signal", raised.append)
            guard = shutdown.SignalGuard(export)
            guard._pid = 0 if name == "used" else guard._pid
            guard._handle(signal.SIGTERM, None)
            assert raised == [signal.SIGTERM], name
