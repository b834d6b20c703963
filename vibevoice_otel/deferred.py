"""A recorder that is built when something is to be recorded: a program that never speaks does not pay for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vibevoice_otel import forking

if TYPE_CHECKING:
    from vibevoice_otel.recording.recorder import Recorder
    from vibevoice_otel.recording.timeline import Timeline
    from vibevoice_otel.settings import Settings


class DeferredRecorder:
    """Stands for the recorder that ``build`` makes on its first use, at the front door of a process.

    Args:
        settings: the operator's.
        build: makes the recorder. One that fails is not tried again.
    """

    def __init__(self, settings: Settings, build: Callable[[], Recorder]) -> None:
        self.settings = settings
        self._build: Callable[[], Recorder] | None = build
        self._built: Recorder | None = None
        self._building = False
        self._early: list[tuple[str, str, int]] = []  # told while it is built
        forking.begin(self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    @property
    def built(self) -> Recorder | None:
        """The recorder, if anything has needed it yet."""
        return self._built

    @property
    def gone(self) -> bool:
        """Whether nothing is recorded any more: it has been closed, or could not be built."""
        return self._built is None and self._build is None and not self._building

    @property
    def closing(self) -> bool:
        return self._built is not None and self._built.closing

    @property
    def model_ready(self) -> Any:
        return self._built.model_ready if self._built is not None else None

    def ready(self) -> Recorder:
        """The recorder, built now if need be.

        Raises:
            RuntimeError: when it is gone, or being built by this very thread.
            Exception: what the building raised.
        """
        if self._built is None:
            with self._lock:
                if self._built is None:
                    build, self._build = self._build, None
                    if build is None:
                        raise RuntimeError("there is no recorder")
                    self._building = True
                    try:
                        self._built = build()
                    finally:
                        self._building = False
                    for dropped in self._early:
                        self._built.on_drop(*dropped)
        return self._built

    def on_drop(self, what: str, reason: str, count: int) -> None:
        if self._built is None and self._build is not None:
            with contextlib.suppress(Exception):  # what needs it tells of it
                self.ready()
        if self._built is not None:
            self._built.on_drop(what, reason, count)
        elif len(self._early) < 1000:
            self._early.append((what, reason, count))

    def open(self, part: str, **options: Any) -> Timeline:
        return self.ready().open(part, **options)

    def release(self, timeline: Timeline, part: str) -> None:
        if self._built is not None:
            self._built.release(timeline, part)

    def __contains__(self, timeline: Timeline) -> bool:
        return self._built is not None and timeline in self._built

    def close(self) -> None:
        """Record nothing more, and hold nothing."""
        self._built = self._build = None
