"""The queries of the dashboards, apart from how they are drawn. Metrics and labels come from semconv.py, numbers from
thresholds.py.

``$__rate_interval``, ``$__range`` and the variables are Grafana's; ``bound`` puts values in their place for whoever
runs a query elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from dashboards.promql import growth, mean, ordered, quantile, series, share_above, total
from dashboards.recording import BAD, COUNTED, FAILED, LONG_INTERVAL_SECONDS, SLO_WINDOW, budget_left, limit_code
from dashboards.thresholds import CONTINUITY, FIRST_AUDIO, SUCCESS, Objective
from vibevoice_otel import semconv
from vibevoice_otel.semconv import Limit, Metric, SharePart, Status

NOW: Final = "$__rate_interval"
NOW_MS: Final = "$__rate_interval_ms"
#: From one point of a query to the next.
STEP: Final = "$__interval"
RANGE: Final = "$__range"
WHO: Final = 'service=~"$service", environment=~"$environment"'
SCOPE: Final = f'{WHO}, instance=~"$instance"'
SPEAKER: Final = f'{SCOPE}, voice=~"$voice"'
MISS: Final = f'cache="{semconv.Cache.MISS}"'


def _milliseconds(duration: str) -> float:
    number, unit = re.fullmatch(r"([0-9]+)(ms|s|m|h)", duration).groups()  # type: ignore[union-attr]
    return float(number) * {"ms": 1, "s": 1e3, "m": 60e3, "h": 3600e3}[unit]


def bound(expression: str, variables: Mapping[str, str] | None = None, interval: str = "1m", window: str = "5m") -> str:
    """The expression with Grafana's variables replaced: every one not in ``variables`` matches all."""
    text = expression.replace(NOW_MS, f"{_milliseconds(interval):g}").replace(NOW, interval)
    text = text.replace(STEP, interval).replace(RANGE, window)
    return re.sub(r"\$\{?([A-Za-z_]\w*)(?::\w+)?\}?", lambda found: (variables or {}).get(found[1], ".*"), text)


# ------------------------------------------------------------------------------------------------------------------
# outcome
def failure_ratio(window: str, scope: str = SPEAKER, by: str = "voice") -> str:
    failed = total(by, growth(semconv.REQUESTS, window, scope, FAILED))
    return f"{failed} / {total(by, growth(semconv.REQUESTS, window, scope, COUNTED))}"


def success_ratio(window: str, scope: str = SCOPE) -> str:
    return f"1 - {failure_ratio(window, scope, '')}"


def objective_missed(window: str, scope: str = SCOPE) -> str:
    """Share of requests that count towards the first-audio objective and missed it."""
    bad = total("", growth(semconv.FIRST_AUDIO_SLI, window, scope, BAD))
    return f"{bad} / {total('', growth(semconv.FIRST_AUDIO_SLI, window, scope))}"


def per_second(count: str) -> str:
    """A count within $__rate_interval as a rate."""
    return f"{count} / ({NOW_MS} / 1000)"


def requests_by(label: str, scope: str = SCOPE) -> str:
    return per_second(total(label, growth(semconv.REQUESTS, NOW, scope)))


def errors_by_cause(scope: str = SPEAKER) -> str:
    return total("error_type", growth(semconv.ERRORS, NOW, scope))


SUCCESS_LEFT: Final = f"min({budget_left(SUCCESS)}{{{WHO}}})"
FIRST_AUDIO_LEFT: Final = f"min({budget_left(FIRST_AUDIO)}{{{WHO}}})"


def failing_voices(window: str) -> str:
    """The failure ratio of each voice that failed at all."""
    return f"{failure_ratio(window)} > 0"


def known_days(objective: Objective) -> str:
    """Days of the objective's window that its budget is reckoned from; the rest is before Prometheus' time."""
    samples = f"count_over_time({budget_left(objective)}{{{WHO}}}[{SLO_WINDOW}])"
    return f"max({samples}) * {LONG_INTERVAL_SECONDS} / 86400"


SETBACKS: Final = total(
    "status", growth(semconv.REQUESTS, NOW, SCOPE, f'status=~"{Status.CANCELLED}|{Status.REJECTED}"')
)


# ------------------------------------------------------------------------------------------------------------------
# latency
def first_audio(q: float, window: str = NOW, scope: str = SCOPE, by: str = "") -> str:
    return quantile(q, semconv.FIRST_AUDIO, window, by, scope)


def slow_share(window: str, scope: str = SCOPE, by: str = "") -> str:
    return share_above(semconv.SLOW_FIRST_AUDIO_SECONDS, semconv.FIRST_AUDIO, window, by, scope)


def heat(metric: Metric, scope: str) -> str:
    """Observations by bucket, for a heat map."""
    return total("le", growth(metric, NOW, scope, suffix="_bucket"))


def parts(scope: str = SPEAKER) -> str:
    """Mean seconds of each part of the first-audio latency; stacked they are its mean,
    for each request has every part.
    """
    return mean(semconv.FIRST_AUDIO_PART, NOW, "part", scope)


def matrix(label: str) -> str:
    """P95 of the first-audio latency by a parameter and by the text's length, over the time shown; of what was asked
    for alone.
    """
    return ordered(
        label, f"({quantile(0.95, semconv.FIRST_AUDIO, RANGE, f'{label}, text_length_range', SPEAKER)} >= 0)"
    )


def step_mean(scope: str = SPEAKER) -> str:
    return ordered("step_index", mean(semconv.INFERENCE, NOW, "step_index", scope))


def step_p95(scope: str = SPEAKER) -> str:
    return ordered("step_index", quantile(0.95, semconv.INFERENCE, NOW, "step_index", scope))


TEXT_LENGTHS: Final = per_second(total("text_length_range", growth(semconv.FIRST_AUDIO, NOW, SPEAKER, suffix="_count")))
LAUNCH: Final = quantile(0.95, semconv.LAUNCH_LATENCY, NOW, "device_id", SCOPE)
DEVICE_QUEUE: Final = quantile(0.95, semconv.DEVICE_QUEUE, NOW, "device_id", SCOPE)
QUEUE: Final = quantile(0.95, semconv.QUEUE_DURATION, NOW, "", SPEAKER)


def cold(metric: Metric, scope: str) -> str:
    """Loads from cold in the interval."""
    return total("", growth(metric, NOW, scope, MISS, suffix="_count"))


# --------------------------------------------------------------------------------------------------------------------
# flow
ACTIVE: Final = total("", series(semconv.ACTIVE, SCOPE))
PROGRESS_AGE: Final = f"max({series(semconv.PROGRESS_AGE, SCOPE)})"
RTF: Final = (
    f"{total('', growth(semconv.GENERATE_BUSY, NOW, SCOPE))} / {total('', growth(semconv.AUDIO_PRODUCED, NOW, SCOPE))}"
)
RTF_P95: Final = quantile(0.95, semconv.RTF, NOW, "", SCOPE)
UNDERRUNS: Final = total("", growth(semconv.UNDERRUN, NOW, SCOPE))
BACKLOG: Final = f"max by (voice) ({series(semconv.BUFFER_LENGTH, SPEAKER)})"
DEFECTS: Final = total("kind", growth(semconv.DEFECTIVE_FRAMES, NOW, SPEAKER))
LEADING_SILENCE: Final = quantile(0.95, semconv.LEADING_SILENCE_SECONDS, NOW, "voice", SPEAKER)


# ----------------------------------------------------------------------------------------------------------------
# listener
def within(seconds: float, window: str, scope: str = SCOPE, by: str = "") -> str:
    """Share of requests whose worst gap is at most so long: C50, C100, C200; exact,
    for the histogram has these edges.
    """
    return f"1 - ({share_above(seconds, semconv.GAP, window, by, scope)})"


CONTINUITY_LEFT: Final = f"min({budget_left(CONTINUITY)}{{{WHO}}})"
FINISHED: Final = total("finish_reason", growth(semconv.FINISHED, NOW, SPEAKER))
WARM_UPS: Final = total("warmup", growth(semconv.WARM_UPS, NOW, SPEAKER))
SUSPECTS: Final = total("suspect", growth(semconv.SUSPECTS, NOW, SPEAKER))


def interval(q: float, scope: str = SPEAKER, by: str = "") -> str:
    return quantile(q, semconv.CHUNK_INTERVAL, NOW, by, scope)


REQUEST_BY_LENGTH: Final = quantile(0.95, semconv.REQUEST_DURATION, NOW, "text_length_range", SPEAKER)
#: Characters for each second of audio.
PACE: Final = " / ".join(
    total("voice", growth(each, NOW, SPEAKER)) for each in (semconv.CHARACTERS, semconv.AUDIO_PRODUCED)
)


# ------------------------------------------------------------------------------------------------------------------
# memory
def memory(metric: Metric) -> str:
    return f"max by (instance, device_id) ({series(metric, SCOPE)})"


MEMORY_USED: Final = memory(semconv.GPU_MEMORY)
MEMORY_LIMIT: Final = memory(semconv.GPU_MEMORY_LIMIT)
MEMORY_RESERVED: Final = memory(semconv.GPU_MEMORY_RESERVED)
MEMORY_SHARE: Final = f"max({series(semconv.GPU_MEMORY, SCOPE)} / {series(semconv.GPU_MEMORY_LIMIT, SCOPE)})"
MEMORY_EVENTS: Final = total("event", growth(semconv.GPU_MEMORY_EVENTS, NOW, SCOPE, 'event=~"oom|retry"'))

#: Who is the limit (recording.CODES), the most that a faster card and a faster host could save, and energy, each of the
#: chosen instances.
_ON_CARD: Final = f'limit=~"{Limit.CARD}|{Limit.OTHER_PROCESS}"'
_WHOLE_FRAME: Final = f'frame_part="{SharePart.FRAME}"'
LIMIT: Final = limit_code("", "5m", SCOPE)
_LIMITED: Final = growth(semconv.FRAME_LIMIT, NOW, SCOPE)
LIMITS: Final = f"{total('limit', _LIMITED)} / scalar({total('', _LIMITED)})"
CARD_SAVES: Final = (
    f"{total('', growth(semconv.FRAME_LIMIT, '5m', SCOPE, _ON_CARD))}"
    f" / {total('', growth(semconv.FRAME_LIMIT, '5m', SCOPE))}"
)
HOST_SAVES: Final = f"1 - {mean(semconv.KERNEL_SHARE, RANGE, '', SCOPE, _WHOLE_FRAME)}"
PASSES: Final = mean(semconv.LM_DURATION, NOW, "branch, clock", SPEAKER)
_ENERGY: Final = series(semconv.HW_ENERGY, SCOPE)
#: Every process on a card reports that card's own energy, so it counts once by its UUID. It does not begin at nought.
ENERGY: Final = (
    f"sum(max by (hw_id) (max_over_time({_ENERGY}[{NOW}]) - min_over_time({_ENERGY}[{NOW}])))"
    f" / {total('', growth(semconv.AUDIO_PRODUCED, NOW, SCOPE))}"
)
UTILIZATION: Final = f"max by (hw_id) ({series(semconv.HW_GPU_UTILIZATION, SCOPE)})"


def dcgm(metric: str) -> str:
    """dcgm-exporter's share of the cards on which the chosen instances run, by UUID; nothing where it does not run."""
    named = f'label_replace({metric}, "hw_id", "$1", "UUID", "(.+)")'
    return f"max by (hw_id) ({named}) and on (hw_id) {UTILIZATION}"


THROTTLED: Final = f"max by (throttle_reason) ({series(semconv.GPU_THROTTLED, SCOPE)}) > 0"
_ERRORS: Final = series(semconv.HW_ERRORS, SCOPE)
CARD_ERRORS: Final = f"max by (error_type) (max_over_time({_ERRORS}[{NOW}]) - min_over_time({_ERRORS}[{NOW}]))"

# ----------------------------------------------------------------------------------------------------------------
# telemetry
DROPPED: Final = total("what, reason", growth(semconv.DROPPED, NOW, SCOPE))
#: Each once: while a Collector still shows what an instance told of itself before, it has two series.
INSTANCES: Final = f"count(count by (job, instance) ({series(semconv.BUILD_INFO, SCOPE)})) or vector(0)"
#: Some of these are missing where the Collector is young: a refusal that never happened has no series.
COLLECTORS_UP: Final = 'sum by (job) (up{job=~"vibevoice|otel-.+"})'
EXPORT_QUEUE: Final = "max by (instance, exporter) (otelcol_exporter_queue_size / otelcol_exporter_queue_capacity)"

# ------------------------------------------------------------------------------------------------------------------
# changes
#: How far back the value before a change is looked for: a model or a driver is known from the first request on, which
#: may be long after a restart.
_REMEMBERED: Final = "1d"
#: Seconds: a value that others outlived by so much is gone, and new when it comes again (a release that is rolled
#: back).
_GONE: Final = 600
#: What runs, as an operator changes it; the adapters follow from the rest.
CHANGING: Final = tuple(each for each in semconv.BUILD_INFO.attributes if each is not semconv.M_ADAPTER)


def changed(attribute: semconv.Attribute) -> str:
    """1 in the one interval in which a service first runs with this value, having run with another: ``changed`` says
    which.

    A restart with the same value is no change, whatever instance it makes, nor is a service that was never heard of
    before.
    """
    (label,) = (each for each in semconv.BUILD_INFO.labels if each == attribute.key.replace(".", "_"))
    by, info = f"service, environment, {label}", series(semconv.BUILD_INFO, WHO, f'{label}!=""')
    last = f"max by ({by}) (max_over_time(timestamp({info})[{_REMEMBERED}:5m] offset {STEP}))"
    newest = f"max by (service, environment) ({last})"
    before = f"({last} >= on (service, environment) group_left {newest} - {_GONE})"
    now = f"group by ({by}) (last_over_time({info}[{STEP}]))"
    new = f"{now} unless {before} and on (service, environment) {before}"
    return f'label_replace({new}, "changed", "{attribute.key} $1", "{label}", "(.+)")'


CHANGES: Final = " or ".join(changed(each) for each in CHANGING)

# -------------------------------------------------------------------------------------------------------------------
# voices
_ASKED: Final = f"{total('voice', growth(semconv.REQUESTS, RANGE, SCOPE))} > 0"


def _of_asked(expression: str) -> str:
    """Of the voices that were asked for in the time shown. NaN is no number to sort by: where there is none, there is
    no point.
    """
    return f"({expression}) >= 0 and on (voice) {_ASKED}"


#: Columns of the table of all voices: title -> expression. Of every voice, not of $voice: it is there to choose one.
VOICES: Final = {
    "Requests": _ASKED,
    "Failed": _of_asked(failure_ratio(RANGE, SCOPE)),
    "P95 first audio": _of_asked(quantile(0.95, semconv.FIRST_AUDIO, RANGE, "voice", SCOPE)),
    "C100": _of_asked(within(semconv.SLO_GAP_SECONDS, RANGE, SCOPE, "voice")),
    "Mean step": _of_asked(mean(semconv.INFERENCE, RANGE, "voice", SCOPE)),
    "Underruns a request": _of_asked(
        " / ".join(total("voice", growth(each, RANGE, SCOPE)) for each in (semconv.UNDERRUN, semconv.REQUESTS))
    ),
    "Defective frames": _of_asked(total("voice", growth(semconv.DEFECTIVE_FRAMES, RANGE, SCOPE))),
}

# -----------------------------------------------------------------------------------------------------------------
# variables
VARIABLES: Final = {
    "service": f"label_values({semconv.BUILD_INFO.prometheus}, service)",
    "environment": f'label_values({semconv.BUILD_INFO.prometheus}{{service=~"$service"}}, environment)',
    "instance": f"label_values({semconv.BUILD_INFO.prometheus}{{{WHO}}}, instance)",
    "voice": f"label_values({semconv.REQUESTS.prometheus}{{{SCOPE}}}, voice)",
}


# -------------------------------------------------------------------------------------------------------------------
# traces
def _chosen(key: str, variable: str) -> str:
    """The attribute is one of what the reader chose. A raw string, for a regex that Grafana escaped holds
    backslashes.
    """
    return f"{key} =~ `${{{variable}:regex}}`"


ENVIRONMENT: Final = "resource.deployment.environment.name"
#: No regex matches an attribute that is absent, not even ``.*``: a service that names no environment is found by each.
_ENVIRONMENT: Final = f"({_chosen(ENVIRONMENT, 'environment')} || {ENVIRONMENT} = nil)"
_REQUESTS: Final = (
    f'name = "{semconv.SYNTHESIZE.name}"',
    _chosen("resource.service.name", "service"),
    _chosen("resource.service.instance.id", "instance"),
    _chosen(f"span.{semconv.VOICE.key}", "voice"),
    _ENVIRONMENT,
)
#: Columns of the tables of requests, as they stand: attribute -> title.
REQUEST_COLUMNS: Final = {
    semconv.FIRST_AUDIO_LATENCY: "First audio",
    semconv.VOICE: "Voice",
    semconv.CFG: "cfg",
    semconv.STEPS: "Steps",
    semconv.TEXT_LENGTH: "Characters",
    semconv.STATUS: "Status",
    semconv.ERROR_TYPE: "Error",
}


SUSPECT_COLUMNS: Final = {semconv.SUSPECT: "Suspect", **REQUEST_COLUMNS}


def _traces(*conditions: str, columns: Mapping[semconv.Attribute, str] = REQUEST_COLUMNS) -> str:
    """TraceQL for the requests that the variables choose."""
    shown = ", ".join(f"span.{attribute.key}" for attribute in columns)
    return f"{{ {' && '.join((*_REQUESTS, *conditions))} }} | select({shown})"


TRACES: Final = _traces()
SLOW_TRACES: Final = _traces(f"span.{semconv.FIRST_AUDIO_LATENCY.key} > {semconv.SLO_FIRST_AUDIO_SECONDS:g}")
FAILED_TRACES: Final = _traces("status = error")
SUSPECT_TRACES: Final = _traces(f"span.{semconv.SUSPECT.key} != nil", columns=SUSPECT_COLUMNS)
#: The diffusion steps of one request's first frame: those that its first audio waited for.
STEPS_OF_TRACE: Final = (
    f'{{ trace:id = "${{trace}}" && name = "{semconv.FRAME.name}" && span.{semconv.FRAME_INDEX.key} = 0 }}'
    f' > {{ name = "{semconv.STEP.name}" }} | select(span.{semconv.STEP_INDEX.key})'
)
