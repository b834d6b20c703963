"""Voice: which one is it, and what does it do differently from the others?"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models.dashboard import DataTransformerConfig

from dashboards import queries as q
from dashboards.boards import common
from dashboards.dashboard import board, row
from dashboards.panels import (
    BLUE,
    GREEN,
    PURPLE,
    RED,
    YELLOW,
    colours,
    heat,
    kept,
    only,
    organize,
    query,
    series,
    sort_by,
    table,
)
from vibevoice_otel import semconv

_KEPT: Final = kept(("service", "environment", "instance"))
_ALONE: Final = f"/d/vibevoice-voice?var-voice=${{__value.raw:percentencode}}&{_KEPT}"


#: Columns in the order of the queries, each named by its query's letter.
_RANKED: Final = (
    DataTransformerConfig("merge", options={}),
    organize(
        {
            "voice": "voice",
            **{f"Value #{chr(ord('A') + index)}": title for index, title in enumerate(q.VOICES)},
            "Time": "",
        }
    ),
    sort_by("Failed"),
)

_VOICES = row(
    "",
    table(
        1,
        "All voices",
        *q.VOICES.values(),
        description="Every voice that was asked for in the time shown, the most failing first. Click a column's head "
        "to rank by it, a voice to see it alone.",
        runbook="VibeVoiceVoiceSpecificFailureRate",
        width=24,
        transformations=_RANKED,
        overrides=(
            only("voice", links={"Only this voice": _ALONE}),
            only("Failed", unit="percentunit", thresholds=common.FAILURES, cells=True),
            only("P95 first audio", unit="s", thresholds=common.LATE, cells=True),
            only("C100", unit="percentunit", thresholds=common.CONTINUOUS, cells=True, empty="No audio"),
            only("Mean step", unit="s"),
            only("Underruns a request", decimals=2),
        ),
    ),
)

_ERRORS = row(
    "Errors",
    series(
        10,
        "Failures over 24 h",
        query(q.failing_voices("1h"), "{{voice}}"),
        description="Share of the requests that ended in error or timeout, over an hour, of each voice that had any, "
        "for the last 24 hours whatever time is chosen above. Red line: the alert's limit.",
        runbook="VibeVoiceVoiceSpecificFailureRate",
        unit="percentunit",
        width=12,
        thresholds=common.FAILURES,
        requests=q.FAILED_TRACES,
        empty="No failed request in 24 hours",
        time_from="24h",
    ),
    series(
        11,
        "Errors by cause",
        query(q.errors_by_cause(), "{{error_type}}"),
        description="Failed requests by error.type. Empty is good: nothing failed.",
        runbook="VibeVoiceVoiceSpecificFailureRate",
        width=12,
        stacked=True,
        requests=q.FAILED_TRACES,
        empty=common.NONE_FAILED,
    ),
)

_FIRST_AUDIO = row(
    "First audio",
    heat(
        20,
        "First audio of the chosen voices",
        q.heat(semconv.FIRST_AUDIO, q.SPEAKER),
        exemplars=True,
        description="Requests by the time to their first audio. Compare with all voices, beside. Dots are single "
        "requests: click one for its trace.",
        runbook="VibeVoiceHighFirstAudioLatency",
        requests=q.SLOW_TRACES,
    ),
    heat(
        21,
        "First audio of all voices",
        q.heat(semconv.FIRST_AUDIO, q.SCOPE),
        description="The same for all voices: a band that only the left picture has is the voice's own.",
        runbook="VibeVoiceHighFirstAudioLatency",
    ),
    common.latency(
        22,
        "P95 first audio by voice",
        query(q.first_audio(0.95, q.NOW, q.SPEAKER, "voice"), "{{voice}}", exemplars=True),
        description="95th percentile of the time to first audio of each chosen voice; dashed: the objective.",
        width=24,
        height=7,
        thresholds=common.LATE,
        requests=q.SLOW_TRACES,
    ),
)

_LISTENER = row(
    "How it went on, and how it ended",
    common.share(
        50,
        "C100 by voice",
        query(q.within(semconv.SLO_GAP_SECONDS, q.NOW, q.SPEAKER, "voice"), "{{voice}}"),
        description="Share of each chosen voice's requests whose worst gap is at most 100 ms.",
        runbook="VibeVoiceContinuityBudgetBurn",
        thresholds=common.CONTINUOUS,
        max=1.0,
    ),
    series(
        51,
        "P95 interval between sends",
        query(q.interval(0.95, q.SPEAKER, "voice"), "{{voice}}", exemplars=True),
        description="95th percentile of the time from one send that carries audio to the next. Longer than a chunk "
        "lasts: the listener runs dry.",
        runbook="VibeVoiceUnderruns",
        unit="s",
    ),
    series(
        52,
        "How speech ended",
        query(q.FINISHED, "{{finish_reason}}"),
        description="eos: the model ended it. length: the length budget cut it off, though the service calls that a "
        "success. stopped: the listener left or time was over.",
        runbook="VibeVoiceSpeechCutOff",
        stacked=True,
        overrides=colours({"eos": GREEN, "length": RED, "stopped": BLUE, "error": PURPLE}),
    ),
    series(
        53,
        "Characters a second of audio",
        query(q.PACE, "{{voice}}"),
        description="The voice's pace. Falls when speech loops, climbs when it is cut.",
        runbook="VibeVoiceSpeechCutOff",
        width=12,
    ),
    series(
        54,
        "Suspect speech",
        query(q.SUSPECTS, "{{suspect}}"),
        description="Requests far from their voice's own pace (loop, cut, pace), or with something in the audio that "
        "no listener wants (VIBEVOICE_OTEL_AUDIO_CHECKS). Empty is good.",
        runbook="VibeVoiceSpeechCutOff",
        width=12,
        stacked=True,
        requests=q.SUSPECT_TRACES,
        empty="No suspect speech in this time",
    ),
)

_STEPS = row(
    "Diffusion steps",
    common.latency(
        30,
        "Mean step time by step",
        query(q.step_mean(), "{{step_index}}"),
        description="Mean duration of a diffusion step by its place in the frame (0 is the first). All should be "
        "alike; a slow 0 is a launch or an allocation.",
        width=12,
    ),
    common.latency(
        31,
        "P95 step time by step",
        query(q.step_p95(), "{{step_index}}", exemplars=True),
        description="95th percentile of a diffusion step by its place in the frame. Far above the mean: something "
        "else takes the device or the interpreter at times.",
        width=12,
    ),
)

_AUDIO = row(
    "Audio",
    series(
        40,
        "Buffer backlog",
        query(q.BACKLOG, "{{voice}}"),
        description="The largest number of audio chunks that wait to be sent, by voice. Climbs when a listener or the "
        "network is slow.",
        runbook="VibeVoiceUnderruns",
        empty="No stream was open",
    ),
    series(
        41,
        "Defective frames",
        query(q.DEFECTS, "{{kind}}"),
        description="Audio frames that are silent, not a number, or clipped. Speech has pauses, so some are silent.",
        runbook="VibeVoiceDefectiveAudio",
        overrides=colours({"nan": RED, "clipped": YELLOW}),
    ),
    series(
        42,
        "Leading silence",
        query(q.LEADING_SILENCE, "{{voice}}", exemplars=True),
        description="95th percentile of the silence before the first sound: the first audio came, but the listener "
        "heard nothing yet.",
        runbook="VibeVoiceDefectiveAudio",
        unit="s",
    ),
)

VOICE = board(
    "vibevoice-voice",
    "One voice, or some, beside all. The table ranks all voices; click one to see it alone.",
    _VOICES,
    _ERRORS,
    _FIRST_AUDIO,
    _LISTENER,
    _STEPS,
    _AUDIO,
    variables=("service", "environment", "instance", "voice"),
)
