"""SIGTERM lets open streams end: no new one is taken, the load balancer is told, and uvicorn stops once the last has
ended.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn

logger = logging.getLogger(__name__)


class Drain:
    """Counts open streams, and knows whether new ones may come. For one event loop; ``begun`` is set by any thread.

    Attributes:
        begun: no new stream is taken from now on.
        open: streams between acceptance and close.
    """

    def __init__(self) -> None:
        self.begun = False
        self.open = 0

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """Count a stream from its acceptance to its close."""
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


class DrainingServer(uvicorn.Server):  # type: ignore[misc]
    """uvicorn, which by itself cuts every WebSocket (1012) as soon as SIGTERM comes.

    Args:
        config: uvicorn's.
        drain: of the application that is served.
        seconds: that open streams are waited for; 0 leaves uvicorn as it is. A second signal, and Ctrl-C, end at once.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, seconds: float) -> None:
        super().__init__(config)
        self._drain, self._seconds = drain, seconds
        self._asked: tuple[int, FrameType | None] | None = None
        self._deadline = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or stop where there is nothing to wait for."""
        if sig != signal.SIGTERM or self._seconds <= 0 or self._asked is not None:
            super().handle_exit(sig, frame)
            return
        self._asked, self._deadline = (sig, frame), time.monotonic() + self._seconds
        self._drain.begun = True

    async def on_tick(self, counter: int) -> bool:
        """Stop once the last stream has ended, or the time is over; uvicorn asks ten times a second."""
        if self._asked is not None and not self.should_exit:
            late = time.monotonic() > self._deadline
            if late and self._drain.open:
                logger.warning(
                    "%d streams are still open %g s after SIGTERM and are cut off: raise VIBEVOICE_SERVICE_DRAIN",
                    self._drain.open,
                    self._seconds,
                )
            if late or not self._drain.open:
                super().handle_exit(*self._asked)
        return bool(await super().on_tick(counter))
