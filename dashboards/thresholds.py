"""Every number that an alert fires at or a panel is coloured by. The objectives themselves stand in semconv.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from vibevoice_otel import semconv

Severity = Literal["warning", "critical"]

#: Below so many requests in its window a voice's share says nothing, and no alert about it fires.
MIN_REQUESTS: Final = 20
#: And below so many bad ones: of the 80 requests of a night's half hour five are late by chance every other night.
MIN_BAD: Final = 10
#: Share of refused requests above which most listeners are turned away.
REJECTED_RATIO: Final = 0.5
FAILURE_RATIO: Final = 0.05
GPU_MEMORY_RATIO: Final = 0.9
UNDERRUNS_PER_REQUEST: Final = 0.1
#: Share of a voice's requests whose speech the length budget cut off, and how many of them are no accident.
CUT_OFF_RATIO: Final = 0.01
CUT_OFF_REQUESTS: Final = 2
#: Share of a process's limit of series that is in use.
SERIES_RATIO: Final = 0.8
STUCK_SECONDS: Final = 30
QUEUE_RATIO: Final = 0.5
PROBE_FAILURES: Final = 3
#: Seconds of audio in ten minutes below which the fleet's real-time factor is that of a few requests.
LEAST_AUDIO_SECONDS: Final = 60
REAL_TIME: Final = 1.0  # a real-time factor above it cannot keep a listener supplied

#: Share of a voice's frames with a defect that is no accident. Speech has pauses, so silence is the most tolerated.
DEFECTIVE_RATIO: Final = {semconv.Defect.NAN: 0.0, semconv.Defect.CLIPPED: 0.01, semconv.Defect.SILENT: 0.3}


@dataclass(frozen=True, slots=True)
class Objective:
    """A service level objective: ``ratio`` of requests must be good over semconv.SLO_WINDOW_DAYS."""

    name: str
    title: str
    ratio: float

    @property
    def budget(self) -> float:
        return round(1 - self.ratio, 12)


SUCCESS: Final = Objective("success", "Success", semconv.SLO_SUCCESS_RATIO)
FIRST_AUDIO: Final = Objective("first_audio", "First audio", semconv.SLO_FIRST_AUDIO_RATIO)
CONTINUITY: Final = Objective("continuity", "Continuity", semconv.SLO_GAP_RATIO)
OBJECTIVES: Final = (SUCCESS, FIRST_AUDIO, CONTINUITY)


@dataclass(frozen=True, slots=True)
class Burn:
    """Fires when the budget burns ``factor`` times too fast over both windows, for ``hold``: long enough to matter, and
    still going on.
    """

    long: str
    short: str
    factor: float
    hold: str
    severity: Severity


#: 14.4: 2 % of 30 days' budget in 1 h; 6: 5 % in 6 h; 3: 10 % in 1 d; 1: 10 % in 3 d.
BURNS: Final = (
    Burn("1h", "5m", 14.4, "2m", "critical"),
    Burn("6h", "30m", 6.0, "15m", "critical"),
    Burn("1d", "2h", 3.0, "1h", "warning"),
    Burn("3d", "6h", 1.0, "3h", "warning"),
)
