"""The one thread that checks the audio of all streams."""

from __future__ import annotations

import queue
import threading

from opentelemetry.context import Context, attach

from vibevoice_otel import failures
from vibevoice_otel.recording.checks.audio import AudioChecks


class Checker:
    """Checks what streams have taken, soon after. It starts with the first chunk (refused a thread, with a later one),
    and ends with the process or :meth:`stop`.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[AudioChecks | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def note(self, checks: AudioChecks) -> None:
        """``checks`` has taken something."""
        self._waiting.put(checks)
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = failures.start_thread("checks", self._run)

    def stop(self) -> None:
        """End the thread once it has checked what waits."""
        self._waiting.put(None)

    def _run(self) -> None:
        attach(Context())
        while (checks := self._waiting.get()) is not None:
            checks.work()
