"""What the service says of its own slots, by OpenTelemetry's API: what autoscaling reads. Nothing is exported without
an SDK.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakSet

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from vibevoice_otel import semconv
from vibevoice_otel.service.slots import Slots

_LIVE: WeakSet[Slots] = WeakSet()
_METER = get_meter("vibevoice_otel.service", schema_url=semconv.SCHEMA_URL)


def publish(slots: Slots) -> None:
    """Export these slots for as long as they live; the slots of several applications in one process add up."""
    if not _LIVE:
        for metric, read in ((semconv.SERVICE_CAPACITY, _capacity), (semconv.SERVICE_REQUESTS, _requests)):
            _METER.create_observable_gauge(metric.name, [read], metric.unit, metric.brief)
    _LIVE.add(slots)


def _capacity(_: CallbackOptions) -> Iterable[Observation]:
    live = list(_LIVE)
    return [Observation(sum(each.capacity for each in live))] if live else []


def _requests(_: CallbackOptions) -> Iterable[Observation]:
    live = list(_LIVE)
    if not live:
        return []
    state = str(semconv.M_STATE)
    return [
        Observation(sum(each.working for each in live), {state: "working"}),
        Observation(sum(each.waiting for each in live), {state: "waiting"}),
    ]
