"""Root cause: where did the time go?"""

from __future__ import annotations

from typing import Any

from dashboards import queries as q
from dashboards.boards import common
from dashboards.grafana import RED, YELLOW, Board, Panel, Query
from vibevoice_otel import semconv
from vibevoice_otel.semconv import Part

#: Fixed, so that the same part has the same colour wherever one looks; in the order in which the parts happen.
PARTS = dict(
    zip(
        Part.ALL,
        ("purple", "red", "orange", "yellow", "light-blue", "blue", "green", "dark-green", "dark-purple", "text"),
        strict=True,
    )
)


def _matrix(label: str) -> tuple[dict[str, Any], ...]:
    options = {"columnField": "text_length_range", "rowField": label, "valueField": "Value", "emptyValue": "null"}
    return ({"id": "groupingToMatrix", "options": options},)


_CELLS = {"custom.cellOptions": {"type": "color-background", "mode": "basic"}}
_TRACE_COLUMNS = (
    ({"id": "byRegexp", "options": ".*latency.*"}, {"unit": "s", "thresholds": common.LATE.json(), **_CELLS}),
)
_BY_LATENCY = (
    {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": semconv.FIRST_AUDIO_LATENCY.key, "desc": True}]}},
)
_RIGHT = {"custom.axisPlacement": "right"}


def _parameter(id: int, label: str, title: str) -> Panel:  # noqa: A002 - the field's name
    return Panel(
        id,
        f"First audio by {title} and text length",
        f"P95 of the time to first audio over the time shown: a row for each {title}, a column for each length of text "
        "(short below 50 characters, medium below 200). Red: above the objective. A row that is red throughout is the parameter's doing, a column the text's.",
        "table",
        (Query(q.matrix(label), instant=True),),
        "s",
        8,
        8,
        common.LATE,
        runbook="VibeVoiceHighFirstAudioLatency",
        traceql=q.SLOW_TRACES,
        empty=common.IDLE,
        transformations=_matrix(label),
        overrides=(({"id": "byType", "options": "number"}, _CELLS),),
    )


ROOT_CAUSE = Board(
    "vibevoice-root-cause",
    "VibeVoice / Root cause",
    "The first-audio latency over what can delay it. The stack says which part grew; the panels below it say why.",
    (
        (
            "Where did the time go?",
            (
                Panel(
                    1,
                    "Parts of the first-audio latency",
                    "Mean time to first audio, cut into consecutive parts that add up to it exactly, over its P95 (line). The band that grew is the cause: queue - too little capacity; "
                    "model or voice load - cold; prefill - text; lm, diffusion, decode - the engine; delivery - the event loop or the network.",
                    "timeseries",
                    (Query(q.parts(), "{{part}}"), Query(q.first_audio(0.95, q.NOW, q.SPEAKER), "P95", exemplars=True)),
                    "s",
                    24,
                    10,
                    common.LATE,
                    runbook="VibeVoiceHighFirstAudioLatency",
                    traceql=q.SLOW_TRACES,
                    empty=common.IDLE,
                    stacked=True,
                    bottom=0.0,
                    overrides=(
                        *common.colours(PARTS),
                        (
                            {"id": "byName", "options": "P95"},
                            {
                                "custom.stacking": {"mode": "none", "group": "B"},
                                "custom.fillOpacity": 0,
                                "custom.lineStyle": {"fill": "dash", "dash": [8, 6]},
                                "color": {"mode": "fixed", "fixedColor": RED},
                            },
                        ),
                    ),
                ),
            ),
        ),
        (
            "What delays it",
            (
                Panel(
                    10,
                    "GPU memory",
                    "First audio P95 (left) over the share of GPU memory in use (right). Both climbing together: allocation stalls. Memory is empty on a machine without a GPU.",
                    "timeseries",
                    (
                        Query(q.first_audio(0.95, q.NOW, q.SPEAKER), "P95 first audio", exemplars=True),
                        Query(q.MEMORY_SHARE, "GPU memory"),
                    ),
                    "s",
                    8,
                    8,
                    runbook="VibeVoiceGpuMemoryNearLimit",
                    traceql=q.SLOW_TRACES,
                    empty=common.IDLE,
                    bottom=0.0,
                    overrides=(
                        ({"id": "byName", "options": "GPU memory"}, {"unit": "percentunit", "max": 1, **_RIGHT}),
                    ),
                ),
                Panel(
                    11,
                    "Cold loads",
                    "Models and voices that had to be loaded, and texts prepared, from cold: each delays the request that caused it. Flat at zero once all is warm.",
                    "timeseries",
                    (
                        Query(q.cold(semconv.MODEL_LOAD_DURATION, q.SCOPE), "model"),
                        Query(q.cold(semconv.VOICE_LOAD_DURATION, q.SPEAKER), "voice"),
                    ),
                    "short",
                    8,
                    8,
                    runbook="VibeVoiceHighFirstAudioLatency",
                    empty="Nothing was loaded from cold",
                    bottom=0.0,
                ),
                Panel(
                    12,
                    "Queue",
                    "P95 of the wait for a turn, and the streams open (right). Both climbing: more load than capacity.",
                    "timeseries",
                    (Query(q.QUEUE, "P95 wait", exemplars=True), Query(q.ACTIVE, "open")),
                    "s",
                    8,
                    8,
                    runbook="VibeVoiceHighFirstAudioLatency",
                    empty=common.IDLE,
                    bottom=0.0,
                    overrides=(({"id": "byName", "options": "open"}, {"unit": "short", **_RIGHT}),),
                ),
                Panel(
                    13,
                    "Launch latency",
                    "P95 from the host's call to the start on the GPU: on an idle device (launch) it is the host's overhead, on a busy one (behind others) other work. Empty without a GPU.",
                    "timeseries",
                    (
                        Query(q.LAUNCH, "launch {{device_id}}", exemplars=True),
                        Query(q.DEVICE_QUEUE, "behind others {{device_id}}"),
                    ),
                    "s",
                    8,
                    8,
                    runbook="VibeVoiceHighFirstAudioLatency",
                    empty=common.NO_GPU,
                    bottom=0.0,
                ),
                Panel(
                    14,
                    "GPU out of memory, or nearly",
                    "Allocations that failed (oom) or worked only after torch gave its cache back (retry). Empty without a GPU.",
                    "timeseries",
                    (Query(q.MEMORY_EVENTS, "{{event}}"),),
                    "short",
                    8,
                    8,
                    common.ANY,
                    runbook="VibeVoiceGpuOutOfMemory",
                    empty=common.NO_GPU,
                    bottom=0.0,
                    overrides=common.colours({"oom": RED, "retry": YELLOW}),
                ),
                Panel(
                    15,
                    "Step time",
                    "Mean diffusion step by its place in the frame: the engine's own pulse, free of queues and of texts.",
                    "timeseries",
                    (Query(q.step_mean(), "step {{step_index}}"),),
                    "s",
                    8,
                    8,
                    runbook="VibeVoiceHighFirstAudioLatency",
                    empty=common.IDLE,
                    bottom=0.0,
                ),
            ),
        ),
        (
            "What was asked for",
            (
                _parameter(20, semconv.M_CFG.key, "cfg"),
                _parameter(21, semconv.M_STEPS.key, "steps"),
                Panel(
                    22,
                    "Requests by cfg",
                    "Requests a second by guidance scale: a client that asks for another value than the others shows here first.",
                    "timeseries",
                    (Query(q.requests_by("cfg", q.SPEAKER), "cfg {{cfg}}"),),
                    "reqps",
                    4,
                    8,
                    stacked=True,
                    runbook="VibeVoiceDefectiveAudio",
                    empty=common.IDLE,
                    bottom=0.0,
                ),
                Panel(
                    23,
                    "Requests by text length",
                    "First audios a second by length of text: short below 50 characters, medium below 200, long.",
                    "timeseries",
                    (Query(q.TEXT_LENGTHS, "{{text_length_range}}"),),
                    "reqps",
                    4,
                    8,
                    stacked=True,
                    runbook="VibeVoiceHighFirstAudioLatency",
                    empty=common.IDLE,
                    bottom=0.0,
                ),
            ),
        ),
        (
            "The requests themselves",
            (
                Panel(
                    30,
                    "Late requests",
                    "Traces of requests whose first audio missed the objective, the slowest of the latest 20 first. Empty is good: none was late.",
                    "traces",
                    width=12,
                    height=9,
                    traceql=q.SLOW_TRACES,
                    runbook="VibeVoiceHighFirstAudioLatency",
                    empty="No late request in this time",
                    transformations=_BY_LATENCY,
                    overrides=_TRACE_COLUMNS,
                ),
                Panel(
                    31,
                    "Failed requests",
                    "Traces of requests that failed. Empty is good: none did.",
                    "traces",
                    width=12,
                    height=9,
                    traceql=q.FAILED_TRACES,
                    runbook="VibeVoiceVoiceSpecificFailureRate",
                    empty="No failed request in this time",
                    transformations=_BY_LATENCY,
                    overrides=_TRACE_COLUMNS,
                ),
            ),
        ),
    ),
    variables=("service", "environment", "instance", "voice"),
)
