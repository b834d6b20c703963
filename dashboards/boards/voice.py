"""Voice: which one is it, and what does it do differently from the others?"""

from __future__ import annotations

from typing import Any

from dashboards import queries as q
from dashboards.boards import common
from dashboards.grafana import RED, YELLOW, Board, Panel, Query
from vibevoice_otel import semconv


def _columns() -> tuple[tuple[dict[str, Any], dict[str, Any]], ...]:
    units = {"Failed": "percentunit", "P95 first audio": "s", "Mean step": "s", "Underruns a request": "short"}
    coloured = {"Failed": common.FAILURES, "P95 first audio": common.LATE}
    found: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (
            {"id": "byName", "options": name},
            {
                "unit": unit,
                **(
                    {
                        "thresholds": coloured[name].json(),
                        "custom.cellOptions": {"type": "color-background", "mode": "basic"},
                    }
                    if name in coloured
                    else {}
                ),
            },
        )
        for name, unit in units.items()
    ]
    here = "/d/vibevoice-voice?var-voice=${__value.raw}&${datasource:queryparam}&${tempo:queryparam}&${service:queryparam}&${environment:queryparam}&${instance:queryparam}&${__url_time_range}"
    found.append(({"id": "byName", "options": "voice"}, {"links": [{"title": "Only this voice", "url": here}]}))
    return tuple(found)


def _table() -> tuple[dict[str, Any], ...]:
    letters = [chr(ord("A") + index) for index in range(len(q.VOICES))]
    names = {f"Value #{letter}": title for letter, title in zip(letters, q.VOICES, strict=True)}
    hidden = {"Time": True}
    return (
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {"excludeByName": hidden, "includeByName": {}, "indexByName": {}, "renameByName": names},
        },
        {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": "Failed", "desc": True}]}},
    )


VOICE = Board(
    "vibevoice-voice",
    "VibeVoice / Voice",
    "One voice, or some, beside all. The table ranks all voices; click one to see it alone.",
    (
        (
            "",
            (
                Panel(
                    1,
                    "All voices",
                    "Every voice over the time shown, the most failing first. Click a column's head to rank by it, a voice to see it alone.",
                    "table",
                    tuple(Query(each, instant=True) for each in q.VOICES.values()),
                    "short",
                    24,
                    8,
                    runbook="VibeVoiceVoiceSpecificFailureRate",
                    empty=common.IDLE,
                    transformations=_table(),
                    overrides=_columns(),
                ),
            ),
        ),
        (
            "Errors",
            (
                Panel(
                    10,
                    "Failures over 24 h",
                    "Share of each voice's requests that ended in error or timeout, over an hour, for the last 24 hours whatever time is chosen above. Red line: the alert's limit.",
                    "timeseries",
                    (Query(q.failure_ratio("1h"), "{{voice}}"),),
                    "percentunit",
                    12,
                    8,
                    common.FAILURES,
                    runbook="VibeVoiceVoiceSpecificFailureRate",
                    traceql=q.FAILED_TRACES,
                    empty=common.IDLE,
                    time_from="24h",
                    bottom=0.0,
                ),
                Panel(
                    11,
                    "Errors by cause",
                    "Failed requests by error.type. Empty is good: nothing failed.",
                    "timeseries",
                    (Query(q.errors_by_cause(), "{{error_type}}"),),
                    "short",
                    12,
                    8,
                    stacked=True,
                    runbook="VibeVoiceVoiceSpecificFailureRate",
                    traceql=q.FAILED_TRACES,
                    empty="No failed request in this time",
                    bottom=0.0,
                ),
            ),
        ),
        (
            "First audio",
            (
                Panel(
                    20,
                    "First audio of the chosen voices",
                    "Requests by the time to their first audio. Compare with all voices, beside. Dots are single requests: click one for its trace.",
                    "heatmap",
                    (Query(q.heat(semconv.FIRST_AUDIO, q.SPEAKER), "{{le}}", exemplars=True),),
                    "short",
                    12,
                    8,
                    runbook="VibeVoiceHighFirstAudioLatency",
                    traceql=q.SLOW_TRACES,
                    empty=common.IDLE,
                ),
                Panel(
                    21,
                    "First audio of all voices",
                    "The same for all voices: a band that only the left picture has is the voice's own.",
                    "heatmap",
                    (Query(q.heat(semconv.FIRST_AUDIO, q.SCOPE), "{{le}}"),),
                    "short",
                    12,
                    8,
                    runbook="VibeVoiceHighFirstAudioLatency",
                    empty=common.IDLE,
                ),
                Panel(
                    22,
                    "P95 first audio by voice",
                    "95th percentile of the time to first audio of each chosen voice; dashed: the objective.",
                    "timeseries",
                    (Query(q.first_audio(0.95, q.NOW, q.SPEAKER, "voice"), "{{voice}}", exemplars=True),),
                    "s",
                    24,
                    7,
                    common.LATE,
                    runbook="VibeVoiceHighFirstAudioLatency",
                    traceql=q.SLOW_TRACES,
                    empty=common.IDLE,
                    bottom=0.0,
                ),
            ),
        ),
        (
            "Diffusion steps",
            (
                Panel(
                    30,
                    "Mean step time by step",
                    "Mean duration of a diffusion step by its place in the frame (0 is the first). All should be alike; a slow 0 is a launch or an allocation.",
                    "timeseries",
                    (Query(q.step_mean(), "step {{step_index}}"),),
                    "s",
                    12,
                    8,
                    runbook="VibeVoiceHighFirstAudioLatency",
                    empty=common.IDLE,
                    bottom=0.0,
                ),
                Panel(
                    31,
                    "P95 step time by step",
                    "95th percentile of a diffusion step by its place in the frame. Far above the mean: something else takes the device or the interpreter at times.",
                    "timeseries",
                    (Query(q.step_p95(), "step {{step_index}}", exemplars=True),),
                    "s",
                    12,
                    8,
                    runbook="VibeVoiceHighFirstAudioLatency",
                    empty=common.IDLE,
                    bottom=0.0,
                ),
            ),
        ),
        (
            "Audio",
            (
                Panel(
                    40,
                    "Buffer backlog",
                    "The largest number of audio chunks that wait to be sent, by voice. Climbs when a listener or the network is slow. No point while no stream is open.",
                    "timeseries",
                    (Query(q.BACKLOG, "{{voice}}"),),
                    "short",
                    8,
                    8,
                    runbook="VibeVoiceUnderruns",
                    empty="No stream is open",
                    bottom=0.0,
                ),
                Panel(
                    41,
                    "Defective frames",
                    "Audio frames that are silent, not a number, or clipped. Speech has pauses, so some are silent.",
                    "timeseries",
                    (Query(q.DEFECTS, "{{kind}}"),),
                    "short",
                    8,
                    8,
                    runbook="VibeVoiceDefectiveAudio",
                    empty=common.IDLE,
                    bottom=0.0,
                    overrides=common.colours({"nan": RED, "clipped": YELLOW}),
                ),
                Panel(
                    42,
                    "Leading silence",
                    "95th percentile of the silence before the first sound: the first audio came, but the listener heard nothing yet.",
                    "timeseries",
                    (Query(q.LEADING_SILENCE, "{{voice}}", exemplars=True),),
                    "s",
                    8,
                    8,
                    runbook="VibeVoiceDefectiveAudio",
                    empty=common.IDLE,
                    bottom=0.0,
                ),
            ),
        ),
    ),
    variables=("service", "environment", "instance", "voice"),
)
