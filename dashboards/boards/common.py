"""Thresholds, texts and panels that more than one dashboard uses, from the same constants as the alerts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from grafana_foundation_sdk.builders.prometheus import Dataquery as Query
from grafana_foundation_sdk.models.dashboard import ValueMap, ValueMappingResult

from dashboards import thresholds as limits
from dashboards.panels import BLUE, GREEN, PURPLE, RED, YELLOW, levels, query, series
from dashboards.recording import CODES
from vibevoice_otel import semconv
from vibevoice_otel.semconv import Limit

#: The same colour for the same thing on every dashboard; both themes have these.
STATUS_COLOURS: Final = {"success": GREEN, "error": RED, "timeout": PURPLE, "cancelled": BLUE, "rejected": YELLOW}
NO_GPU: Final = "No GPU reports here"
NO_NVML: Final = "No NVML here"
NONE_LOST: Final = "Nothing lost"
NO_BUDGET: Final = "No requests yet, or no recording rules"
NONE_FAILED: Final = "No failed request in this time"
LATE: Final = levels(GREEN, (semconv.SLO_FIRST_AUDIO_SECONDS, RED))
SUCCESS: Final = levels(RED, (1 - limits.FAILURE_RATIO, YELLOW), (semconv.SLO_SUCCESS_RATIO, GREEN))
FAILURES: Final = levels(GREEN, (1 - semconv.SLO_SUCCESS_RATIO, YELLOW), (limits.FAILURE_RATIO, RED))
BUDGET: Final = levels(RED, (0.0, YELLOW), (0.25, GREEN))
CONTINUOUS: Final = levels(RED, (0.95, YELLOW), (semconv.SLO_GAP_RATIO, GREEN))
SLOW_SHARE: Final = levels(GREEN, (1 - semconv.SLO_FIRST_AUDIO_RATIO, RED))
REAL_TIME: Final = levels(GREEN, (limits.REAL_TIME, RED))
MEMORY: Final = levels(GREEN, (limits.GPU_MEMORY_RATIO, RED))
ANY: Final = levels(GREEN, (1e-9, YELLOW))
LIMIT_COLOURS: Final = {
    Limit.CARD: PURPLE,
    Limit.OTHER_PROCESS: RED,
    Limit.CORE: YELLOW,
    Limit.LOCK: BLUE,
    Limit.UNKNOWN: "text",
}
#: The limit in words, by its number.
LIMITS: Final = [
    ValueMap(
        {
            f"{code:g}": ValueMappingResult(limit.words, LIMIT_COLOURS[limit], index=index)
            for index, (limit, code) in enumerate(CODES.items())
        }
    )
]

#: Curves of seconds until the first audio.
latency: Final = partial(series, unit="s", runbook="VibeVoiceHighFirstAudioLatency")
#: Curves of a share of which the objective is near 1.
share: Final = partial(series, unit="percentunit", min=None, max=1.0)


def percentiles(of: Callable[[float], str]) -> list[Query]:
    """P50, P95 and P99, the last with its single requests."""
    return [query(of(each), f"P{each * 100:g}", exemplars=each == 0.99) for each in (0.5, 0.95, 0.99)]
