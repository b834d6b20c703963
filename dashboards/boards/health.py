"""Health: is it well, and if not, on which side is the fault?"""

from __future__ import annotations

from dashboards import queries as q
from dashboards import thresholds as limits
from dashboards.boards import common
from dashboards.panels import BLUE, GREEN, RED, YELLOW, Board, Query, Thresholds, colours, only, row, series, stat
from vibevoice_otel import semconv

SLO_MS = f"{semconv.SLO_FIRST_AUDIO_SECONDS * 1000:g} ms"
DAYS = semconv.SLO_WINDOW_DAYS

_FIGURES = row(
    "",
    stat(
        1,
        "Success",
        q.success_ratio(q.RANGE),
        description=f"Share of requests that ended well, over the time shown. Cancelled and rejected requests do not count. Objective: {semconv.SLO_SUCCESS_RATIO:.0%}.",
        runbook="VibeVoiceSuccessBudgetBurn",
        unit="percentunit",
        thresholds=common.SUCCESS,
        empty=common.IDLE,
        decimals=2,
    ),
    stat(
        2,
        "P95 first audio",
        q.first_audio(0.95, q.RANGE),
        description=f"From a request's arrival to its first audio, 95th percentile over the time shown. Objective: {SLO_MS}.",
        runbook="VibeVoiceHighFirstAudioLatency",
        unit="s",
        thresholds=common.LATE,
        empty=common.IDLE,
    ),
    stat(
        3,
        "Above 500 ms",
        q.slow_share(q.RANGE),
        description="Share of requests whose first audio took longer than 500 ms, over the time shown; exact, for the histogram has an edge there.",
        runbook="VibeVoiceHighFirstAudioLatency",
        unit="percentunit",
        thresholds=common.SLOW_SHARE,
        empty=common.IDLE,
        decimals=1,
    ),
    stat(
        4,
        "Success budget left",
        q.SUCCESS_LEFT,
        description=f"What is left of the {1 - semconv.SLO_SUCCESS_RATIO:.0%} of requests that may fail in {DAYS} days; below 0 the objective is missed.",
        runbook="VibeVoiceSuccessBudgetBurn",
        unit="percentunit",
        thresholds=common.BUDGET,
        empty="No requests yet, or no recording rules",
    ),
    stat(
        5,
        "First-audio budget left",
        q.FIRST_AUDIO_LEFT,
        description=f"What is left of the {1 - semconv.SLO_FIRST_AUDIO_RATIO:.0%} of requests that may start late in {DAYS} days; below 0 the objective is missed.",
        runbook="VibeVoiceFirstAudioBudgetBurn",
        unit="percentunit",
        thresholds=common.BUDGET,
        empty="No requests yet, or no recording rules",
    ),
    stat(
        6,
        "Open",
        q.ACTIVE,
        description="Requests open now, on all instances.",
        runbook="VibeVoiceTotalStall",
        width=2,
        thresholds=Thresholds(BLUE),
        empty="No service reports",
    ),
    stat(
        7,
        "Instances",
        q.INSTANCES,
        description="Instances of the service that report.",
        runbook="VibeVoiceServiceGone",
        width=2,
        thresholds=Thresholds(RED, ((1, GREEN),)),
    ),
)

_SIDES = row(
    "Voice loading, or the engine?",
    series(
        10,
        "Success",
        Query(q.success_ratio(q.NOW), "success"),
        description="Share of requests that ended well. Drops here while the latency beside it holds: a voice does not load, or its input is bad.",
        runbook="VibeVoiceSuccessBudgetBurn",
        unit="percentunit",
        width=12,
        thresholds=common.SUCCESS,
        traceql=q.FAILED_TRACES,
        empty=common.IDLE,
        bottom=None,
        top=1.0,
    ),
    series(
        11,
        "First-audio latency",
        *(Query(q.first_audio(each), f"P{each * 100:g}", exemplars=each == 0.99) for each in (0.5, 0.95, 0.99)),
        description=f"P50, P95 and P99 of the time to first audio; dashed: the objective for P95, {SLO_MS}. Dots are single requests: click one for its trace. "
        "Climbs here while success holds: the engine is slow.",
        runbook="VibeVoiceHighFirstAudioLatency",
        unit="s",
        width=12,
        thresholds=common.LATE,
        traceql=q.SLOW_TRACES,
        empty=common.IDLE,
    ),
    series(
        12,
        "Requests by outcome",
        Query(q.requests_by("status"), "{{status}}"),
        description="Requests a second by how they ended. Cancelled: the listener left. Rejected: the service was busy or had nothing to say.",
        runbook="VibeVoiceSuccessBudgetBurn",
        unit="reqps",
        width=12,
        height=7,
        stacked=True,
        empty=common.IDLE,
        overrides=colours(common.STATUS_COLOURS),
    ),
    series(
        13,
        "First audio above 500 ms, or never",
        Query(q.slow_share(q.NOW), "above 500 ms"),
        Query(q.objective_missed(q.NOW), "objective missed"),
        description="Share of requests above 500 ms, and share that missed the objective: late, or failed before any audio.",
        runbook="VibeVoiceFirstAudioBudgetBurn",
        unit="percentunit",
        width=12,
        height=7,
        thresholds=common.SLOW_SHARE,
        traceql=q.SLOW_TRACES,
        empty=common.IDLE,
    ),
)

_LOAD = row(
    "Load",
    series(
        20,
        "Streams open, and the oldest without progress",
        Query(q.ACTIVE, "open"),
        Query(q.PROGRESS_AGE, "oldest progress"),
        description="Requests open now, and how long ago the least recent of them made a frame (right axis). That age climbs without end when a stream is stuck.",
        runbook="VibeVoiceStuckStream",
        height=7,
        empty="No service reports",
        overrides=(only("oldest progress", unit="s", right=True),),
    ),
    series(
        21,
        "Real-time factor",
        Query(q.RTF, "all together"),
        Query(q.RTF_P95, "P95 of requests", exemplars=True),
        description="Time spent generating for each second of audio, of all requests together, and its P95 by request. Above 1 listeners run dry.",
        runbook="VibeVoiceUnderruns",
        height=7,
        thresholds=common.REAL_TIME,
        empty=common.IDLE,
    ),
    series(
        22,
        "Underruns, cancelled and rejected",
        Query(q.UNDERRUNS, "underruns"),
        Query(q.SETBACKS, "{{status}}"),
        description="In each interval: times a listener who plays at once ran out of audio, and requests that were cancelled or rejected.",
        runbook="VibeVoiceUnderruns",
        height=7,
        empty=common.IDLE,
        overrides=colours(common.STATUS_COLOURS),
    ),
)

_PIPELINE = row(
    "Memory and the pipeline itself",
    series(
        30,
        "GPU memory",
        Query(q.MEMORY_USED, "used {{device_id}}"),
        Query(q.MEMORY_RESERVED, "reserved {{device_id}}"),
        Query(q.MEMORY_LIMIT, "limit {{device_id}}"),
        description="What torch has handed out and reserved, against the limit (the lesser of torch's cap and the card's total). Empty on a machine without a GPU.",
        runbook="VibeVoiceGpuMemoryNearLimit",
        unit="bytes",
        height=7,
        empty=common.NO_GPU,
    ),
    stat(
        31,
        "GPU memory used",
        q.MEMORY_SHARE,
        description=f"Share of the limit that torch has handed out, the fullest GPU. Red from {limits.GPU_MEMORY_RATIO:.0%}. Empty on a machine without a GPU.",
        runbook="VibeVoiceGpuMemoryNearLimit",
        unit="percentunit",
        height=7,
        thresholds=common.MEMORY,
        empty=common.NO_GPU,
    ),
    series(
        32,
        "Telemetry lost",
        Query(q.DROPPED, "{{what}}: {{reason}}"),
        description="Spans, records and metrics that were lost, by reason. Empty is good: nothing was lost.",
        runbook="VibeVoiceTelemetryDropped",
        width=6,
        height=7,
        thresholds=common.ANY,
        empty=common.NONE_LOST,
    ),
    series(
        33,
        "Collector",
        Query(q.COLLECTORS_UP, "{{job}} up"),
        Query(q.EXPORT_QUEUE, "queue of {{exporter}}"),
        description="Targets of each job that answer, and how full each Collector's queue is (right axis). A dip is a restart; a queue that fills means that the trace store takes nothing. "
        "Not filtered by service: a Collector serves all.",
        runbook="VibeVoiceTargetDown",
        width=6,
        height=7,
        thresholds=Thresholds(GREEN, ((limits.QUEUE_RATIO, YELLOW),)),
        empty="Prometheus scrapes no target of ours",
        overrides=(only(pattern="queue.*", unit="percentunit", top=1, right=True),),
    ),
)

HEALTH = Board(
    uid="vibevoice-health",
    title="VibeVoice / Health",
    description="Success and first-audio latency side by side: success drops while latency holds - look at the voices; latency climbs while success "
    "holds - look at the engine (Root cause).",
    rows=(_FIGURES, _SIDES, _LOAD, _PIPELINE),
)
