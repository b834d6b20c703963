"""A recorder that is built when something is to be recorded: a program that never speaks does not pay for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vibevoice_otel import forking

if TYPE_CHECKING:
    from vibevoice_otel.recording.recorder import Recorder
    from vibevoice_otel.settings import Settings


class DeferredRecorder:
    """Looks like the Recorder that ``build`` makes on the first use of anything but ``settings`` and ``on_drop``."""

    def __init__(self, settings: Settings, build: Callable[[], Recorder]) -> None:
        self.settings = settings
        self._build = build
        self._renew()
        forking.renew_in_child(self._renew)
        self._built: Recorder | None = None

    def _renew(self) -> None:
        self._lock = threading.Lock()

    @property
    def built(self) -> Recorder | None:
        """The recorder, if anything has needed it yet."""
        return self._built

    def ready(self) -> Recorder:
        """The recorder, built now if need be."""
        if self._built is None:
            with self._lock:
                if self._built is None:
                    self._built = self._build()
        return self._built

    def on_drop(self, what: str, reason: str, count: int) -> None:
        self.ready().on_drop(what, reason, count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ready(), name)
