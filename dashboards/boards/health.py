"""Health: is it well, and if not, on which side is the fault?"""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders.stat import Panel as Stat

from dashboards import queries as q
from dashboards import thresholds as limits
from dashboards.boards import common
from dashboards.dashboard import board, row
from dashboards.panels import BLUE, GREEN, RED, YELLOW, colours, levels, only, query, series, stat
from vibevoice_otel import semconv

SLO_MS = f"{semconv.SLO_FIRST_AUDIO_SECONDS * 1000:g} ms"
DAYS = semconv.SLO_WINDOW_DAYS
KNOWN = f"known of {DAYS} d"
YOUNG = "Beside it, how many of those days are known: a young budget is a few requests."


def _budget(
    number: int, name: str, left: str, objective: limits.Objective, may: str, *beside: Any, **more: Any
) -> Stat:
    """What is left of an objective's budget. ``may``: what that share of the requests may do."""
    return stat(
        number,
        f"{name} budget left",
        left,
        *beside,
        description=f"What is left of the {objective.budget:.0%} of requests that may {may} in {DAYS} days; "
        f"below 0 the objective is missed. {YOUNG if beside else ''}".strip(),
        unit="percentunit",
        thresholds=common.BUDGET,
        empty=common.NO_BUDGET,
        **more,
    )


def _young(objective: limits.Objective) -> Any:
    return query(q.known_days(objective), KNOWN)


_KNOWN_DAYS = (only(KNOWN, unit="suffix: d", decimals=1, thresholds=levels(BLUE)),)

_FIGURES = row(
    "",
    stat(
        1,
        "Success",
        q.success_ratio(q.RANGE),
        description="Share of requests that ended well, over the time shown. Cancelled and rejected requests do not "
        f"count. Objective: {semconv.SLO_SUCCESS_RATIO:.0%}.",
        runbook="VibeVoiceSuccessBudgetBurn",
        unit="percentunit",
        thresholds=common.SUCCESS,
        decimals=2,
    ),
    stat(
        2,
        "P95 first audio",
        q.first_audio(0.95, q.RANGE),
        description="From a request's arrival to its first audio, 95th percentile over the time shown. "
        f"Objective: {SLO_MS}.",
        runbook="VibeVoiceHighFirstAudioLatency",
        unit="s",
        thresholds=common.LATE,
    ),
    stat(
        3,
        "Above 500 ms",
        q.slow_share(q.RANGE),
        description="Share of requests whose first audio took longer than 500 ms, over the time shown; exact, "
        "for the histogram has an edge there.",
        runbook="VibeVoiceHighFirstAudioLatency",
        unit="percentunit",
        thresholds=common.SLOW_SHARE,
        decimals=1,
    ),
    _budget(
        4,
        "Success",
        q.SUCCESS_LEFT,
        limits.SUCCESS,
        "fail",
        _young(limits.SUCCESS),
        runbook="VibeVoiceSuccessBudgetBurn",
        overrides=_KNOWN_DAYS,
    ),
    _budget(
        5,
        "First-audio",
        q.FIRST_AUDIO_LEFT,
        limits.FIRST_AUDIO,
        "start late",
        _young(limits.FIRST_AUDIO),
        runbook="VibeVoiceFirstAudioBudgetBurn",
        overrides=_KNOWN_DAYS,
    ),
    stat(
        6,
        "Open",
        q.ACTIVE,
        description="Requests open now, on all instances.",
        runbook="VibeVoiceTotalStall",
        width=2,
        thresholds=levels(BLUE),
        empty="No service reports",
    ),
    stat(
        7,
        "Instances",
        q.INSTANCES,
        description="Instances of the service that report.",
        runbook="VibeVoiceServiceGone",
        width=2,
        thresholds=levels(RED, (1, GREEN)),
        empty="",
    ),
)

_SIDES = row(
    "Voice loading, or the engine?",
    common.share(
        10,
        "Success",
        query(q.success_ratio(q.NOW), "success"),
        description="Share of requests that ended well. Drops here while the latency beside it holds: a voice does not "
        "load, or its input is bad.",
        runbook="VibeVoiceSuccessBudgetBurn",
        width=12,
        thresholds=common.SUCCESS,
        requests=q.FAILED_TRACES,
    ),
    common.latency(
        11,
        "First-audio latency",
        *common.percentiles(q.first_audio),
        description=f"P50, P95 and P99 of the time to first audio; dashed: the objective for P95, {SLO_MS}. "
        "Dots are single requests: click one for its trace. Climbs here while success holds: the engine is slow.",
        width=12,
        thresholds=common.LATE,
        requests=q.SLOW_TRACES,
    ),
    series(
        12,
        "Requests by outcome",
        query(q.requests_by("status"), "{{status}}"),
        description="Requests a second by how they ended. Cancelled: the listener left. Rejected: the service was "
        "busy or had nothing to say.",
        runbook="VibeVoiceSuccessBudgetBurn",
        unit="reqps",
        width=12,
        height=7,
        stacked=True,
        overrides=colours(common.STATUS_COLOURS),
    ),
    series(
        13,
        "First audio above 500 ms, or never",
        query(q.slow_share(q.NOW), "above 500 ms"),
        query(q.objective_missed(q.NOW), "objective missed"),
        description="Share of requests above 500 ms, and share that missed the objective: late, or failed before any "
        "audio.",
        runbook="VibeVoiceFirstAudioBudgetBurn",
        unit="percentunit",
        width=12,
        height=7,
        thresholds=common.SLOW_SHARE,
        requests=q.SLOW_TRACES,
    ),
)

_LISTENER = row(
    "What the listener hears",
    stat(
        40,
        "C100",
        q.within(semconv.SLO_GAP_SECONDS, q.RANGE),
        description="Share of requests whose worst gap is at most 100 ms, over the time shown. "
        f"Objective: {semconv.SLO_GAP_RATIO:.0%}.",
        runbook="VibeVoiceContinuityBudgetBurn",
        height=7,
        unit="percentunit",
        thresholds=common.CONTINUOUS,
        decimals=2,
    ),
    _budget(
        41,
        "Continuity",
        q.CONTINUITY_LEFT,
        limits.CONTINUITY,
        "have a gap above 100 ms",
        runbook="VibeVoiceContinuityBudgetBurn",
        height=7,
    ),
    common.share(
        42,
        "Share of requests without a longer gap",
        *(query(q.within(each, q.NOW), f"C{each * 1000:g}") for each in (0.05, 0.1, 0.2)),
        description="C50, C100, C200: the share of requests whose worst gap is at most 50, 100, 200 ms. Falls while "
        "first audio holds: audio is made or delivered more slowly than it is played.",
        runbook="VibeVoiceContinuityBudgetBurn",
        height=7,
        thresholds=common.CONTINUOUS,
    ),
    series(
        43,
        "Interval between sends",
        *common.percentiles(lambda each: q.interval(each, q.SCOPE)),
        description="From one send that carries audio to the next, of all requests.",
        runbook="VibeVoiceContinuityBudgetBurn",
        height=7,
        unit="s",
    ),
)

_LOAD = row(
    "Load",
    series(
        20,
        "Streams open, and the oldest without progress",
        query(q.ACTIVE, "open"),
        query(q.PROGRESS_AGE, "oldest progress"),
        description="Requests open now, and how long ago the least recent of them made a frame (right axis). That age "
        "climbs without end when a stream is stuck.",
        runbook="VibeVoiceStuckStream",
        height=7,
        empty="No service reports",
        overrides=(only("oldest progress", unit="s", right=True),),
    ),
    series(
        21,
        "Real-time factor",
        query(q.RTF, "all together"),
        query(q.RTF_P95, "P95 of requests", exemplars=True),
        description="Time spent generating for each second of audio, of all requests together, and its P95 by request. "
        "Above 1 listeners run dry.",
        runbook="VibeVoiceUnderruns",
        height=7,
        thresholds=common.REAL_TIME,
    ),
    series(
        22,
        "Underruns, cancelled and rejected",
        query(q.UNDERRUNS, "underruns"),
        query(q.SETBACKS, "{{status}}"),
        description="In each interval: times a listener who plays at once ran out of audio (left), and requests that "
        "were cancelled or rejected (right).",
        runbook="VibeVoiceUnderruns",
        height=7,
        overrides=(*colours(common.STATUS_COLOURS), *(only(each, right=True) for each in ("cancelled", "rejected"))),
    ),
)

_PIPELINE = row(
    "Memory and the pipeline itself",
    series(
        30,
        "GPU memory",
        query(q.MEMORY_USED, "used {{device_id}}"),
        query(q.MEMORY_RESERVED, "reserved {{device_id}}"),
        query(q.MEMORY_LIMIT, "limit {{device_id}}"),
        description="What torch has handed out and reserved, against the limit (the lesser of torch's cap and the "
        "card's total). Empty on a machine without a GPU.",
        runbook="VibeVoiceGpuMemoryNearLimit",
        unit="bytes",
        height=7,
        empty=common.NO_GPU,
    ),
    stat(
        31,
        "GPU memory used",
        q.MEMORY_SHARE,
        description="Share of the limit that torch has handed out, the fullest GPU. Red from "
        f"{limits.GPU_MEMORY_RATIO:.0%}. Empty on a machine without a GPU.",
        runbook="VibeVoiceGpuMemoryNearLimit",
        unit="percentunit",
        height=7,
        thresholds=common.MEMORY,
        empty=common.NO_GPU,
    ),
    series(
        32,
        "Telemetry lost",
        query(q.DROPPED, "{{what}}: {{reason}}"),
        description="Spans, records and metrics that were lost, by reason. Empty is good: nothing was lost.",
        runbook="VibeVoiceTelemetryDropped",
        width=6,
        height=7,
        thresholds=common.ANY,
        line=False,
        empty=common.NONE_LOST,
    ),
    series(
        33,
        "Collector",
        query(q.COLLECTORS_UP, "{{job}} up"),
        query(q.EXPORT_QUEUE, "queue of {{exporter}}"),
        description="Targets of each job that answer, and how full each Collector's queue is (right axis). A dip is a "
        "restart; a queue that fills means that the trace store takes nothing. Not filtered by service: a Collector "
        "serves all.",
        runbook="VibeVoiceTargetDown",
        width=6,
        height=7,
        thresholds=levels(GREEN, (limits.QUEUE_RATIO, YELLOW)),
        line=False,
        empty="Prometheus scrapes no target of ours",
        overrides=(only("queue.*", by="byRegexp", unit="percentunit", top=1, right=True),),
    ),
)

HEALTH = board(
    "vibevoice-health",
    "Success and first-audio latency side by side: success drops while latency holds - look at the voices; latency "
    "climbs while success holds - look at the engine (Root cause).",
    _FIGURES,
    _SIDES,
    _LISTENER,
    _LOAD,
    _PIPELINE,
)
