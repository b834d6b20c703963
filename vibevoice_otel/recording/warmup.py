"""Whether an application of this process is starting up: what is spoken meanwhile is the service's own warm-up, no
user's request.
"""

from __future__ import annotations

import threading

from vibevoice_otel import forking


class Startup:
    """Counts the applications whose life span has begun and that are not ready yet. Safe for any thread."""

    def __init__(self) -> None:
        forking.begin(self._none)  # what is starting up is the parent's application, and its end is told to the parent

    def _none(self) -> None:
        self._lock = threading.Lock()
        self._starting = 0

    @property
    def going_on(self) -> bool:
        """Whether any application is starting up now."""
        return self._starting > 0

    def begun(self) -> None:
        """An application's life span begins."""
        with self._lock:
            self._starting += 1

    def done(self) -> None:
        """It is ready, or has failed to become so."""
        with self._lock:
            self._starting = max(0, self._starting - 1)


startup = Startup()
