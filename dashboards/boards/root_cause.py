"""Root cause: where did the time go?"""

from __future__ import annotations

from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.models.dashboard import DataTransformerConfig

from dashboards import queries as q
from dashboards.boards import common
from dashboards.dashboard import board, row
from dashboards.panels import (
    RED,
    YELLOW,
    colours,
    heat,
    kept,
    levels,
    only,
    organize,
    query,
    series,
    sort_by,
    stat,
    table,
    traces,
)
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


LENGTHS = tuple(name for name, _ in semconv.TEXT_LENGTH_RANGES)


def _matrix(label: str) -> list[DataTransformerConfig]:
    """A row for each value in numeric order, a column for each length in its own."""
    lengths = semconv.M_TEXT_RANGE.key
    matrix = {"columnField": lengths, "rowField": label, "valueField": "Value", "emptyValue": "null"}
    return [
        sort_by("aligned", largest_first=False),
        DataTransformerConfig("groupingToMatrix", options=matrix),
        organize({f"{label}\\{lengths}": label, **{each: each for each in LENGTHS}}),
    ]


#: How Grafana names what every row of spans has, in the order in which it is shown; empty: hidden.
_SPAN_COLUMNS = {
    "Start time": "Start time",
    "Span ID": "Trace",
    "Trace Service": "Service",
    "Trace Name": "",
    "Name": "",
    "Duration": "Duration",
}


def _listed(attributes: dict[semconv.Attribute, str], sort: str) -> list[DataTransformerConfig]:
    """Rows of spans with these attributes as columns, numbers as numbers, ``sort`` from the largest down."""
    names = {"Start time": "Start time", **{each.key: title for each, title in attributes.items()}, **_SPAN_COLUMNS}
    numbers = [
        each.key for each in attributes if each.type in {"int", "double"} and each not in {semconv.CFG, semconv.STEPS}
    ]
    conversions = [{"targetField": key, "destinationType": "number"} for key in numbers]
    return [
        DataTransformerConfig("convertFieldType", options={"fields": {}, "conversions": conversions}),
        organize(names),
        sort_by(sort),
    ]


_VARIABLES = ("service", "environment", "instance", "voice")
_STEPS_OF = f"/d/vibevoice-root-cause?viewPanel=33&var-trace=${{__data.fields.traceIdHidden}}&{kept(_VARIABLES)}"
_REQUEST_COLUMNS = (
    only(
        "First audio",
        unit="s",
        thresholds=common.LATE,
        cells=True,
        links={"Its slowest diffusion step": _STEPS_OF},
        width=110,
    ),
    only("Start time", width=180),
    only("cfg", width=60),
    only("Steps", width=70),
    only("Characters", unit="none", width=100),
    only("Status", width=100),
    only("Duration", width=100),
)


def _parameter(number: int, label: str, title: str) -> Table:
    return table(
        number,
        f"First audio by {title} and text length",
        q.matrix(label),
        description=f"P95 of the time to first audio over the time shown: a row for each {title}, a column for each "
        "length of text (short below 50 characters, medium below 200). Red: above the objective. A row that is red "
        "throughout is the parameter's doing, a column the text's.",
        runbook="VibeVoiceHighFirstAudioLatency",
        unit="s",
        width=8,
        thresholds=common.LATE,
        requests=q.SLOW_TRACES,
        transformations=_matrix(label),
        overrides=(
            only("number", by="byType", cells=True),
            only(title, width=80),
            *(only(each, width=110) for each in LENGTHS),
        ),
    )


_TIME = row(
    "Where did the time go?",
    common.latency(
        1,
        "Parts of the first-audio latency",
        query(q.parts(), "{{part}}"),
        query(q.first_audio(0.95, q.NOW, q.SPEAKER), "P95", exemplars=True),
        description="Mean time to first audio, cut into consecutive parts that add up to it exactly, over its P95 "
        "(line). The band that grew is the cause: queue - too little capacity; model or voice load - cold; prefill - "
        "text; lm, diffusion, decode - the engine; delivery - the event loop or the network.",
        width=24,
        height=10,
        thresholds=common.LATE,
        stacked=True,
        requests=q.SLOW_TRACES,
        overrides=(*colours(PARTS), only("P95", dashed=True, colour=RED)),
    ),
)

_CAUSES = row(
    "What delays it",
    series(
        10,
        "P95 first audio, over GPU memory",
        query(q.first_audio(0.95, q.NOW, q.SPEAKER), "P95 first audio", exemplars=True),
        query(q.MEMORY_SHARE, "GPU memory"),
        description="First audio P95 (left) over the share of GPU memory in use (right). Both climbing together: "
        "allocation stalls. Without a GPU the P95 stands alone.",
        runbook="VibeVoiceGpuMemoryNearLimit",
        unit="s",
        requests=q.SLOW_TRACES,
        overrides=(only("GPU memory", unit="percentunit", top=1, right=True),),
    ),
    series(
        11,
        "Cold loads",
        query(q.cold(semconv.MODEL_LOAD_DURATION, q.SCOPE), "model"),
        query(q.cold(semconv.VOICE_LOAD_DURATION, q.SPEAKER), "voice"),
        description="Models and voices that had to be loaded, and texts prepared, from cold: each delays the request "
        "that caused it. Flat at zero once all is warm.",
        runbook="VibeVoiceHighFirstAudioLatency",
        empty="Nothing was loaded from cold",
    ),
    common.latency(
        12,
        "Queue",
        query(q.QUEUE, "P95 wait", exemplars=True),
        query(q.ACTIVE, "open"),
        description="P95 of the wait for a turn, and the streams open (right). Both climbing: more load than capacity.",
        overrides=(only("open", unit="short", right=True),),
    ),
    common.latency(
        13,
        "Launch latency",
        query(q.LAUNCH, "launch {{device_id}}", exemplars=True),
        query(q.DEVICE_QUEUE, "behind others {{device_id}}"),
        description="P95 from the host's call to the start on the GPU: on an idle device (launch) it is the host's "
        "overhead, on a busy one (behind others) other work. Empty without a GPU.",
        empty=common.NO_GPU,
    ),
    series(
        14,
        "GPU out of memory, or nearly",
        query(q.MEMORY_EVENTS, "{{event}}"),
        description="Allocations that failed (oom) or worked only after torch gave its cache back (retry). Empty "
        "without a GPU.",
        runbook="VibeVoiceGpuOutOfMemory",
        thresholds=common.ANY,
        line=False,
        empty=common.NO_GPU,
        overrides=colours({"oom": RED, "retry": YELLOW}),
    ),
    common.latency(
        15,
        "Step time",
        query(q.step_mean(), "{{step_index}}"),
        description="Mean diffusion step by its place in the frame: the engine's own pulse, free of queues and of "
        "texts.",
        unit="s",
    ),
)

_WHOLE = row(
    "After the first audio",
    series(
        40,
        "P95 end to end by text length",
        query(q.REQUEST_BY_LENGTH, "{{text_length_range}}", exemplars=True),
        description="95th percentile of the time from a request's arrival to the last thing done for it, of those "
        "that succeeded.",
        runbook="VibeVoiceContinuityBudgetBurn",
        unit="s",
    ),
    series(
        42,
        "Requests that met a warm-up",
        query(q.WARM_UPS, "{{warmup}}"),
        description="startup: made before the application was ready, in no objective. compile, capture: torch.compile "
        "or a CUDA graph held the request up.",
        runbook="VibeVoiceHighFirstAudioLatency",
        stacked=True,
        empty="None in this time",
    ),
    heat(
        41,
        "Interval between sends of the chosen voices",
        q.heat(semconv.CHUNK_INTERVAL, q.SPEAKER),
        exemplars=True,
        width=8,
        description="One band at the length of a chunk: in time. A second band above it: what stops and goes on, a "
        "drain, a garbage collection, a slow listener.",
        runbook="VibeVoiceContinuityBudgetBurn",
    ),
)

_LIMIT = row(
    "The card or the host",
    stat(
        60,
        "Who is the limit",
        q.LIMIT,
        description="What most of the frames' time went to in the last five minutes. The card: buy a faster one, or a "
        "second. The host's core: a faster core, CUDA graphs, torch.compile, more processes on the card. The "
        "interpreter's lock: more processes, one stream each. Cannot say: below five seconds of frames. Choose one "
        "instance for its own word.",
        runbook="VibeVoiceHostIsTheLimit",
        unit="none",
        width=6,
        height=8,
        empty=common.NO_GPU,
        mappings=common.LIMITS,
    ),
    stat(
        61,
        "A faster card saves at most",
        q.CARD_SAVES,
        description="Share of the frames' time in which the host waited for the card, over five minutes: what a card "
        "that computes in no time would save.",
        runbook="VibeVoiceHostIsTheLimit",
        unit="percentunit",
        width=3,
        height=8,
        empty=common.NO_GPU,
        thresholds=levels("text"),
    ),
    stat(
        62,
        "A faster host saves at most",
        q.HOST_SAVES,
        description="Share of the sampled frames in which no kernel ran, over the time shown. Known only where frames "
        "are sampled (VIBEVOICE_OTEL_GPU_PROFILE).",
        runbook="VibeVoiceHostIsTheLimit",
        unit="percentunit",
        width=3,
        height=8,
        empty="No frame was sampled",
        thresholds=levels("text"),
    ),
    series(
        63,
        "What the frames' time is spent on",
        query(q.LIMITS, "{{limit}}"),
        description="Shares of the frames' time: waiting for the card or for another process on it, running on the "
        "host's core, waiting for the lock.",
        runbook="VibeVoiceHostIsTheLimit",
        unit="percentunit",
        width=12,
        stacked=True,
        max=1.0,
        empty=common.NO_GPU,
        overrides=colours({limit.value: colour for limit, colour in common.LIMIT_COLOURS.items()}),
    ),
    series(
        64,
        "Passes of the language model",
        query(q.PASSES, "{{branch}} by the {{clock}}"),
        description="Mean duration of a pass; a frame has one of each branch. Most of a frame on the real model.",
        runbook="VibeVoiceHostIsTheLimit",
        unit="s",
    ),
    series(
        65,
        "The card itself",
        query(q.UTILIZATION, "some kernel resident {{hw_id}}"),
        query(q.dcgm("DCGM_FI_PROF_SM_ACTIVE"), "SM active {{hw_id}} (DCGM)"),
        query(q.dcgm("DCGM_FI_PROF_GR_ENGINE_ACTIVE"), "engine active {{hw_id}} (DCGM)"),
        query(q.THROTTLED, "throttled: {{throttle_reason}}"),
        query(q.CARD_ERRORS, "error {{error_type}}"),
        description="By NVML (the extra nvidia): the share of time in which some kernel was resident, which is not "
        "how busy the card was (SM active is, where dcgm-exporter runs); throttling; errors.",
        runbook="VibeVoiceStuckStream",
        unit="percentunit",
        empty=common.NO_NVML,
    ),
    series(
        66,
        "Energy of a second of audio",
        query(q.ENERGY, "joules"),
        description="What the cards drew, idle draw and other processes included, over the seconds of audio made. By "
        "NVML.",
        runbook="VibeVoiceHostIsTheLimit",
        unit="joule",
        empty=common.NO_NVML,
    ),
)

_ASKED = row(
    "What was asked for",
    _parameter(20, semconv.M_CFG.key, "cfg"),
    _parameter(21, semconv.M_STEPS.key, "steps"),
    series(
        22,
        "Requests by cfg",
        query(q.requests_by("cfg", q.SPEAKER), "cfg {{cfg}}"),
        description="Requests a second by guidance scale: a client that asks for another value than the others shows "
        "here first.",
        runbook="VibeVoiceDefectiveAudio",
        unit="reqps",
        width=4,
        stacked=True,
    ),
    series(
        23,
        "Requests by text length",
        query(q.TEXT_LENGTHS, "{{text_length_range}}"),
        description="First audios a second by length of text: short below 50 characters, medium below 200, long.",
        runbook="VibeVoiceHighFirstAudioLatency",
        unit="reqps",
        width=4,
        stacked=True,
    ),
)

_REQUESTS = row(
    "The requests themselves",
    traces(
        30,
        "Late requests",
        q.SLOW_TRACES,
        description="Requests whose first audio missed the objective: the latest 20, the slowest first. First audio "
        "leads to the request's diffusion steps, Trace to its trace. Empty is good: none was late.",
        runbook="VibeVoiceHighFirstAudioLatency",
        empty="No late request in this time",
        transformations=_listed(q.REQUEST_COLUMNS, "First audio"),
        overrides=_REQUEST_COLUMNS,
    ),
    traces(
        31,
        "Failed requests",
        q.FAILED_TRACES,
        description="Requests that failed or were rejected: the latest 20, the last first. Empty is good: none did.",
        runbook="VibeVoiceVoiceSpecificFailureRate",
        empty=common.NONE_FAILED,
        transformations=_listed(q.REQUEST_COLUMNS, "Start time"),
        overrides=_REQUEST_COLUMNS,
    ),
    traces(
        32,
        "Requests",
        q.TRACES,
        description="All requests, the failed and the late among them: the latest 20, the last first.",
        runbook="VibeVoiceHighFirstAudioLatency",
        transformations=_listed(q.REQUEST_COLUMNS, "Start time"),
        overrides=_REQUEST_COLUMNS,
    ),
    traces(
        34,
        "Suspect requests",
        q.SUSPECT_TRACES,
        description="Requests whose speech is suspect, and of what: the latest 20, the last first. Empty is good: "
        "nothing was.",
        runbook="VibeVoiceSpeechCutOff",
        empty="No suspect speech in this time",
        transformations=_listed(q.SUSPECT_COLUMNS, "Start time"),
        overrides=_REQUEST_COLUMNS,
    ),
    traces(
        33,
        "Diffusion steps of the first frame of trace $trace",
        q.STEPS_OF_TRACE,
        description="What the first audio of one request waited for: the diffusion steps of its first frame, the "
        "slowest first. Chosen by a click on First audio above; Trace opens the trace at that step.",
        runbook="VibeVoiceHighFirstAudioLatency",
        empty="Click on a request's First audio above",
        spans=100,
        transformations=_listed({semconv.STEP_INDEX: "Step"}, "Duration"),
        overrides=(only("Step", unit="none"),),
    ),
)

ROOT_CAUSE = board(
    "vibevoice-root-cause",
    "The first-audio latency over what can delay it. The stack says which part grew; the panels below it say why.",
    _TIME,
    _LIMIT,
    _CAUSES,
    _ASKED,
    _WHOLE,
    _REQUESTS,
    variables=(*_VARIABLES, "trace"),
)
