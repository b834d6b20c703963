"""Recommendations as a policy inside a service: decided in the background, looked up in the request's path.

A request never waits for the store: :meth:`Policy.decide` is a dictionary look-up and two span attributes. While the
store has not answered yet, or has not for long, the service's own defaults are used and the span says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry import trace

from vibevoice_otel import semconv
from vibevoice_otel.insight.recommendation import Rails, Recommendation, choose
from vibevoice_otel.insight.source import Source, SourceError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decision:
    """``steps`` and ``cfg`` are None where the policy has nothing to say: then the service uses its own defaults."""

    steps: int | None
    cfg: float | None
    reason: str


class Policy:
    """Steps and cfg for each request, from what the store has seen.

    Args:
        source: makes the source anew for each refresh, so that its window moves on.
        refresh: seconds between two looks at the store.
        stale: seconds after which an old answer is no longer used.
        rails: what is never chosen.
    """

    def __init__(
        self, source: Callable[[], Source], *, refresh: float = 60.0, stale: float = 900.0, rails: Rails | None = None
    ) -> None:
        if not (refresh > 0 and stale >= refresh):
            raise ValueError(f"refresh={refresh}, stale={stale}: allowed are positive seconds, stale not below refresh")
        self._source, self._refresh, self._stale, self._rails = source, refresh, stale, rails or Rails()
        self._table: dict[tuple[str | None, str], Recommendation] = {}
        self._at = float("-inf")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._failing = False

    def start(self) -> None:
        """Begin to refresh in the background; harmless when it runs already."""
        with self._lock:
            if self._thread is None:
                self._stop.clear()
                self._thread = threading.Thread(target=self._run, name="vibevoice-policy", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the background thread; a query in flight is waited for at most two seconds."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stop.set()
        if thread is not None:
            thread.join(2.0)

    def update(self) -> None:
        """Look at the store once, now.

        Raises:
            SourceError: when it cannot be read; what was known before stays in use until it is stale.
        """
        from vibevoice_otel.insight.cells import read_cells

        cells = list(read_cells(self._source()).values())
        lengths = [name for name, _ in semconv.TEXT_LENGTH_RANGES]
        voices: list[str | None] = [None, *sorted({c.voice for c in cells})]
        self._table = {
            (voice, length): choose(cells, length, voice, self._rails) for voice in voices for length in lengths
        }
        self._at = time.monotonic()

    def decide(self, voice: str | None, text_length: int) -> Decision:
        """The setting for one request, put on the current span as well. Never waits, never raises."""
        length = semconv.text_length_range(max(text_length, 0))
        age = time.monotonic() - self._at
        if age > self._stale:
            decision = Decision(
                None,
                None,
                "no answer from the store yet" if not self._table else "the store has not answered for too long",
            )
        else:
            known = self._table.get((voice, length)) or self._table.get((None, length))
            if known is None or known.meets is None:
                decision = Decision(None, None, known.reason if known else "nothing observed yet")
            else:
                decision = Decision(known.steps, known.cfg, known.reason)
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attribute(semconv.RECOMMENDATION_REASON.key, decision.reason)
            if decision.steps is not None and decision.cfg is not None:
                span.set_attribute(semconv.RECOMMENDATION_STEPS.key, decision.steps)
                span.set_attribute(semconv.RECOMMENDATION_CFG.key, decision.cfg)
        return decision

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.update()
                self._failing = False
            except SourceError as error:
                self._report(str(error))
            except Exception as error:  # noqa: BLE001 a policy must never take the service down
                self._report(repr(error))
            self._stop.wait(self._refresh)

    def _report(self, problem: str) -> None:
        """Log only the first of consecutive failures."""
        if not self._failing:
            _log.warning("recommendations are off until the store answers: %s", problem)
        self._failing = True
