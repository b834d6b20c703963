"""Thresholds and texts that more than one dashboard uses, from the same constants as the alerts."""

from __future__ import annotations

from typing import Final

from dashboards import thresholds as limits
from dashboards.panels import BLUE, GREEN, PURPLE, RED, YELLOW, Thresholds
from dashboards.recording import CODES
from vibevoice_otel import semconv
from vibevoice_otel.semconv import Limit

#: The same colour for the same thing on every dashboard; both themes have these.
STATUS_COLOURS: Final = {"success": GREEN, "error": RED, "timeout": PURPLE, "cancelled": BLUE, "rejected": YELLOW}
NO_GPU: Final = "No GPU reports here"
IDLE: Final = "No requests in this time"
NONE_LOST: Final = "Nothing lost"
LATE: Final = Thresholds(GREEN, ((semconv.SLO_FIRST_AUDIO_SECONDS, RED),), line=True)
SUCCESS: Final = Thresholds(RED, ((1 - limits.FAILURE_RATIO, YELLOW), (semconv.SLO_SUCCESS_RATIO, GREEN)), line=True)
FAILURES: Final = Thresholds(GREEN, ((1 - semconv.SLO_SUCCESS_RATIO, YELLOW), (limits.FAILURE_RATIO, RED)), line=True)
BUDGET: Final = Thresholds(RED, ((0.0, YELLOW), (0.25, GREEN)))
CONTINUOUS: Final = Thresholds(RED, ((0.95, YELLOW), (semconv.SLO_GAP_RATIO, GREEN)), line=True)
SLOW_SHARE: Final = Thresholds(GREEN, ((1 - semconv.SLO_FIRST_AUDIO_RATIO, RED),), line=True)
REAL_TIME: Final = Thresholds(GREEN, ((limits.REAL_TIME, RED),), line=True)
PLAIN: Final = Thresholds("text")
MEMORY: Final = Thresholds(GREEN, ((limits.GPU_MEMORY_RATIO, RED),))
LIMIT_COLOURS: Final = {
    Limit.CARD: PURPLE, Limit.OTHER_PROCESS: RED, Limit.CORE: YELLOW, Limit.LOCK: BLUE, Limit.UNKNOWN: "text",
}  # fmt: skip
#: Who is the limit, by its number.
LIMITS: Final = {float(code): (limit.words, LIMIT_COLOURS[limit]) for limit, code in CODES.items()}
ANY: Final = Thresholds(GREEN, ((1e-9, YELLOW),))
