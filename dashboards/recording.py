"""Recording rules: what alerts and dashboards read more than once. Names are level:metric:operation, as Prometheus
recommends.

Every sum is by service and environment (and voice), so that any number of instances counts as the one service that it
is.
"""

from __future__ import annotations

from dataclasses import dataclass

from dashboards.promql import SERVICE, VOICE, growth, quantile, series, total
from dashboards.thresholds import BURNS, CONTINUITY, FIRST_AUDIO, OBJECTIVES, SUCCESS, Objective
from vibevoice_otel import semconv
from vibevoice_otel.recording.device import limits
from vibevoice_otel.semconv import Limit, Status

FAILED = f'status=~"{Status.ERROR}|{Status.TIMEOUT}"'
COUNTED = f'status=~"{Status.SUCCESS}|{Status.ERROR}|{Status.TIMEOUT}"'
BAD = 'result="bad"'
SLO_WINDOW = f"{semconv.SLO_WINDOW_DAYS}d"
#: Days move slowly, and cost most to read.
LONG_INTERVAL_SECONDS = 60

VOICE_P95 = f"voice:{semconv.FIRST_AUDIO.prometheus}:p95_30m"
VOICE_FIRST_AUDIOS = f"voice:{semconv.FIRST_AUDIO.prometheus}:count_30m"
VOICE_FAILURES = f"voice:{semconv.REQUESTS.prometheus}:failed_ratio_1h"
VOICE_REQUESTS = f"voice:{semconv.REQUESTS.prometheus}:counted_1h"
ACTIVE = f"service:{semconv.ACTIVE.prometheus}:sum"
INSTANCES = "service:vibevoice_instances:count"
#: What autoscaling reads (deploy/kubernetes): open and waiting requests over the capacity of all, the same in
#: capacities of one process, and 1 while the first-audio budget burns faster than the objective allows, which forbids
#: scaling down.
SATURATION = "service:vibevoice_saturation:ratio"
LOAD = "service:vibevoice_load:pods"
HELD = "service:vibevoice_scale_down_held:bool"


#: What the frames' time was spent on, and the word for it (CODES), by service.
LIMIT_SECONDS = "service:vibevoice_frame_limit_seconds:sum_5m"
LIMIT = "service:vibevoice_frame_limit:code_5m"
#: The word of recording/device/limits.py's verdict as a number, for PromQL and Grafana's mappings.
CODES = {Limit.UNKNOWN: 0, Limit.CARD: 1, Limit.OTHER_PROCESS: 2, Limit.CORE: 3, Limit.LOCK: 4}


@dataclass(frozen=True, slots=True)
class Record:
    name: str
    expression: str


@dataclass(frozen=True, slots=True)
class Group:
    """Rules evaluated one after the other; ``interval`` empty for Prometheus' own."""

    name: str
    rules: tuple[Record, ...]
    interval: str = ""


def bad_ratio(objective: Objective, window: str) -> str:
    """Name of the recorded share of bad requests."""
    return f"service:vibevoice_{objective.name}:bad_ratio_{window}"


def counted(objective: Objective, window: str) -> str:
    """Name of the recorded number of requests that count."""
    return f"service:vibevoice_{objective.name}:counted_{window}"


def budget_left(objective: Objective) -> str:
    """Name of the recorded share of the error budget that is left, 1 to below 0."""
    return f"service:vibevoice_{objective.name}:budget_left_{SLO_WINDOW}"


def bad(objective: Objective, window: str, by: str, *matchers: str) -> tuple[str, str]:
    """Expressions for the bad and for all counted requests of an objective."""
    metric, failing, counting = {
        SUCCESS: (semconv.REQUESTS, FAILED, COUNTED),
        FIRST_AUDIO: (semconv.FIRST_AUDIO_SLI, BAD, ""),
        CONTINUITY: (semconv.CONTINUITY_SLI, BAD, ""),
    }[objective]
    return total(by, growth(metric, window, *matchers, failing)), total(by, growth(metric, window, *matchers, counting))


def limit_code(by: str, window: str, *matchers: str) -> str:
    """Who is the limit, as one of :data:`CODES`: what recording.device.limits.verdict says, of the frames of
    ``window``.
    """

    def seconds(*which: Limit) -> str:
        chosen = f'limit=~"{"|".join(which)}"' if which else ""
        return total(by, growth(semconv.FRAME_LIMIT, window, *matchers, chosen))

    every, card = seconds(), seconds(Limit.CARD, Limit.OTHER_PROCESS)
    error = total(by, growth(semconv.FRAME_LIMIT_ERROR, window, *matchers))
    told = (
        f"(({every}) >= bool {limits.LEAST_SECONDS:g})\n* (({seconds(Limit.UNKNOWN)}) <= bool ({every}) / 2)\n"
        f"* (abs(({card}) - {limits.CARD_SHARE:g} * ({every})) > bool ({error}))"
    )
    of_card = f"({CODES[Limit.CARD]} + (({seconds(Limit.OTHER_PROCESS)}) >= bool {limits.OTHER_SHARE:g} * ({card})))"
    of_host = f"({CODES[Limit.CORE]} + (({seconds(Limit.LOCK)}) >= bool {limits.LOCK_SHARE:g} * ({every})))"
    on_card = f"(({card}) >= bool {limits.CARD_SHARE:g} * ({every}))"
    return f"{told}\n* ({on_card} * {of_card}\n+ (1 - {on_card}) * {of_host})"


def _objective(objective: Objective, window: str) -> tuple[Record, ...]:
    above, below = bad(objective, window, SERVICE)
    ratio, count = bad_ratio(objective, window), counted(objective, window)
    # 0 / 0 without traffic is NaN, which is above no threshold.
    return Record(count, below), Record(ratio, f"{above} / {count}")


def _windows(long: bool) -> tuple[str, ...]:
    every = dict.fromkeys(window for burn in BURNS for window in (burn.short, burn.long))
    return tuple(window for window in every if window.endswith("d") is long)


def groups() -> tuple[Group, ...]:
    """All recording rules."""
    voice_failed, voice_counted = bad(SUCCESS, "1h", VOICE)
    voices = (
        Record(VOICE_P95, quantile(0.95, semconv.FIRST_AUDIO, "30m", VOICE)),
        Record(VOICE_FIRST_AUDIOS, total(VOICE, growth(semconv.FIRST_AUDIO, "30m", suffix="_count"))),
        Record(VOICE_REQUESTS, voice_counted),
        Record(VOICE_FAILURES, f"{voice_failed} / {VOICE_REQUESTS}"),
    )
    state = (
        Record(ACTIVE, total(SERVICE, series(semconv.ACTIVE))),
        Record(INSTANCES, f"count by ({SERVICE}) (count by ({SERVICE}, job, instance) ({series(semconv.BUILD_INFO)}))"),
    )
    busy, capacity = total(SERVICE, series(semconv.SERVICE_REQUESTS)), series(semconv.SERVICE_CAPACITY)
    scaling = (
        Record(SATURATION, f"{busy} / {total(SERVICE, capacity)}"),
        Record(LOAD, f"{busy} / avg by ({SERVICE}) ({capacity})"),
        Record(HELD, f"{bad_ratio(FIRST_AUDIO, '5m')} > bool {FIRST_AUDIO.budget:g}"),
    )
    limit = (
        Record(LIMIT_SECONDS, total(f"{SERVICE}, limit", growth(semconv.FRAME_LIMIT, "5m"))),
        Record(LIMIT, limit_code(SERVICE, "5m")),
    )
    short = tuple(
        rule for objective in OBJECTIVES for window in _windows(long=False) for rule in _objective(objective, window)
    )
    long = tuple(
        rule
        for objective in OBJECTIVES
        for window in (*_windows(long=True), SLO_WINDOW)
        for rule in _objective(objective, window)
    )
    left = tuple(
        Record(budget_left(each), f"1 - {bad_ratio(each, SLO_WINDOW)} / {each.budget:g}") for each in OBJECTIVES
    )
    return (
        Group("vibevoice-voices", voices),
        Group("vibevoice-state", state),
        Group("vibevoice-limit", limit),
        Group("vibevoice-objectives", short),
        Group("vibevoice-scaling", scaling),
        Group("vibevoice-objectives-days", (*long, *left), f"{LONG_INTERVAL_SECONDS // 60}m"),
    )
