"""How many Prometheus series a service makes, computed from semconv.py for a stated size."""

from __future__ import annotations

import math

from vibevoice_otel import semconv
from vibevoice_otel.semconv import Attribute, Metric

VOICES, SETTINGS, STEPS, DEVICES = 25, 3, 5, 1
#: Above so many series the reference page cannot be generated without a failing test.
BOUND = 30_000
#: Values that a label takes where semconv.py does not list them all. cfg and steps are one setting; a model is timed by
#: one clock.
VALUES = {
    semconv.M_VOICE: VOICES,
    semconv.M_CFG: SETTINGS,
    semconv.M_STEPS: 1,
    semconv.M_STEP_INDEX: STEPS,
    semconv.M_CLOCK: 1,
    semconv.M_DEVICE: DEVICES,
    semconv.M_HW_ID: DEVICES,
    semconv.M_HW_TYPE: 1,
    semconv.M_HW_ERROR: 4,
    semconv.M_ERROR_TYPE: 4,
    semconv.M_REASON: 5,
    semconv.M_VERSION: 1,
    semconv.M_TENANT: 20,
    semconv.M_ADAPTER: 1,
    semconv.M_SERVICE_VERSION: 1,
    semconv.GEN_AI_MODEL: 1,
    semconv.MODEL_REVISION: 1,
    semconv.M_DRIVER_VERSION: 1,
    semconv.M_TARGET: 1,
}
#: Measured by other processes than the service: a listener's browser, a probe.
ELSEWHERE = ("span vibevoice.listen", "span vibevoice.probe")


def values(label: Attribute) -> int:
    """How many values of ``label`` the stated service has.

    Raises:
        KeyError: when neither semconv.py nor :data:`VALUES` says so; no value at all would hide the series.
    """
    return len(label.members) if label.members and label not in VALUES else VALUES[label]


def of(metric: Metric) -> int:
    """Series of one metric: a histogram has one for each bucket, the last one without a bound included, and _sum and
    _count.
    """
    sets = math.prod(values(label) for label in metric.attributes)
    return sets * (len(metric.buckets) + 3 if metric.instrument == "histogram" else 1)


def table() -> dict[Metric, int]:
    """Series of each metric of the service, most first."""
    counted = {metric: of(metric) for metric in semconv.METRICS if metric.source not in ELSEWHERE}
    return dict(sorted(counted.items(), key=lambda each: (-each[1], each[0].name)))
