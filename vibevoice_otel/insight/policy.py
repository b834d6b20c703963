"""Recommendations as a policy inside a service: decided in the background, looked up in the request's path.

A request never waits for the store: :meth:`Policy.decide` is a dictionary look-up and two span attributes. While the
store has not answered yet, or has not for long, the service's own defaults are used and the span says so. What is
applied is watched (:mod:`vibevoice_otel.insight.watch`) and taken back where it does harm.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from vibevoice_otel import semconv
from vibevoice_otel.insight.recommendation import Rails, Recommendation, choose
from vibevoice_otel.insight.source import Source, SourceError
from vibevoice_otel.insight.watch import CONTROL, Outcome, Watch

_log = logging.getLogger(__name__)
_LIVE: weakref.WeakSet[Policy] = weakref.WeakSet()


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
        default: steps and cfg that the service uses by itself: a recommendation of the same changes nothing, and is
            neither drawn nor watched.
        control: share of requests that are left as the service has them, 0.01 to 0.5, to hold the others against.
        chance: draws them, a number from 0 to 1 each.
    """

    def __init__(
        self,
        source: Callable[[], Source],
        *,
        refresh: float = 60.0,
        stale: float = 900.0,
        rails: Rails | None = None,
        default: tuple[int, float] | None = None,
        control: float = CONTROL,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not (refresh > 0 and stale >= refresh):
            raise ValueError(f"refresh={refresh}, stale={stale}: allowed are positive seconds, stale not below refresh")
        self._source, self._refresh, self._stale, self._rails = source, refresh, stale, rails or Rails()
        self._default = default
        self.watch = Watch(control, self._rails.slo_seconds, chance=chance)
        self._table: dict[tuple[str | None, str], Recommendation] = {}
        self._at = float("-inf")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._failing = False

    def start(self) -> None:
        """Begin to refresh in the background; harmless when it runs already."""
        _publish(self)
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
        decision = self._known(voice, semconv.text_length_range(max(text_length, 0)))
        outcome: Outcome | None = None
        if decision.steps is not None and decision.cfg is not None and (decision.steps, decision.cfg) != self._default:
            outcome, why = self.watch.draw(decision.steps, decision.cfg)
            if outcome != "applied":
                decision = Decision(None, None, why)
        span = trace.get_current_span()
        if span.is_recording():
            told = {
                semconv.RECOMMENDATION_REASON.key: decision.reason, semconv.RECOMMENDATION_OUTCOME.key: outcome,
                semconv.RECOMMENDATION_STEPS.key: decision.steps, semconv.RECOMMENDATION_CFG.key: decision.cfg,
            }  # fmt: skip
            span.set_attributes({key: value for key, value in told.items() if value is not None})
        return decision

    def _known(self, voice: str | None, length: str) -> Decision:
        """What the store's answer says."""
        age = time.monotonic() - self._at
        if age > self._stale:
            silent = "the store has not answered for too long" if self._table else "no answer from the store yet"
            return Decision(None, None, silent)
        known = self._table.get((voice, length)) or self._table.get((None, length))
        if known is None or known.meets is None:
            return Decision(None, None, known.reason if known else "nothing observed yet")
        return Decision(known.steps, known.cfg, known.reason)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.update()
                self._failing = False
            except Exception as error:  # noqa: BLE001 a policy must never take the service down
                if not self._failing:  # only the first of consecutive failures is logged
                    problem = str(error) if isinstance(error, SourceError) else repr(error)
                    _log.warning("recommendations are off until the store answers: %s", problem)
                self._failing = True
            self._stop.wait(self._refresh)


def _publish(policy: Policy) -> None:
    """Export what this policy takes back, for as long as it lives."""
    if not _LIVE:
        metric = semconv.RECOMMENDATION_TAKEN_BACK
        meter = get_meter("vibevoice_otel.insight", schema_url=semconv.SCHEMA_URL)
        meter.create_observable_gauge(metric.name, [_taken_back], metric.unit, metric.brief)
    _LIVE.add(policy)


def _taken_back(_: CallbackOptions) -> Iterable[Observation]:
    found = {
        (f"{cfg:.1f}", str(steps), back.harm.value)
        for policy in list(_LIVE)
        for (steps, cfg), back in policy.watch.taken_back.items()
    }
    labels = semconv.RECOMMENDATION_TAKEN_BACK.attributes
    return [
        Observation(1, {label.key: value for label, value in zip(labels, row, strict=True)}) for row in sorted(found)
    ]
