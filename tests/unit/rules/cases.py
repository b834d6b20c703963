"""What each alert must see to fire, and what must leave it silent. Series are in promtool's notation, a sample a
minute.

Traffic is 8 requests a minute unless a case says otherwise, so that 20 requests (thresholds.MIN_REQUESTS) are there at
minute 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dashboards.alerts import COLLECTOR_LOSSES
from dashboards.recording import budget_left
from dashboards.thresholds import BURNS, OBJECTIVES

OF = 'service="tts", environment="prod"'
OUT = {"environment": "prod", "service": "vibevoice", "service_name": "tts"}
VOICE = f'{OF}, voice="en-Ann"'
ENOUGH = 3  # minutes until 20 requests were seen
BAD = 10  # minutes until 10 bad ones were, at one a minute


@dataclass(frozen=True)
class Case:
    """``fires`` is the first minute at which the alert fires, None for never in three hours."""

    alert: str
    name: str
    series: dict[str, str]
    fires: int | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.alert}-{self.name}"


def minutes(hold: str) -> int:
    return int(hold[:-1]) * {"m": 1, "h": 60}[hold[-1]]


def requests(**by_status: float) -> dict[str, str]:
    """Requests a minute by status, spread over two instances and two parameter sets."""
    found = {}
    for status, each in by_status.items():
        for instance, steps in (("a", "5"), ("b", "10")):
            found[
                f'vibevoice_streaming_requests_total{{{VOICE}, status="{status}", cfg="1.5", steps="{steps}", '
                f'instance="{instance}"}}'
            ] = f"0+{each / 2:g}x300"
    return found


def first_audio(fast: float, slow: float) -> dict[str, str]:
    """First audios a minute within 0.45 s and between 0.45 and 0.5 s."""
    name, both = "vibevoice_first_audio_latency_seconds", f'{VOICE}, instance="a"'
    return {
        f'{name}_bucket{{{both}, le="0.4"}}': f"0+{fast:g}x300",
        f'{name}_bucket{{{both}, le="0.45"}}': f"0+{fast:g}x300",
        f'{name}_bucket{{{both}, le="0.5"}}': f"0+{fast + slow:g}x300",
        f'{name}_bucket{{{both}, le="+Inf"}}': f"0+{fast + slow:g}x300",
        f"{name}_count{{{both}}}": f"0+{fast + slow:g}x300",
    }


def objective(bad: str, good: str) -> dict[str, str]:
    return {
        f'vibevoice_first_audio_slo_total{{{VOICE}, result="bad"}}': bad,
        f'vibevoice_first_audio_slo_total{{{VOICE}, result="good"}}': good,
    }


def continuity(bad: str, good: str) -> dict[str, str]:
    return {name.replace("first_audio", "continuity"): text for name, text in objective(bad, good).items()}


def finished(**by_reason: float) -> dict[str, str]:
    """Requests a minute whose speech ended, by why."""
    name = "vibevoice_speech_finished_total"
    return {f'{name}{{{VOICE}, finish_reason="{why}"}}': f"0+{each:g}x300" for why, each in by_reason.items()}


def memory(used: float, reserved: float, free: float, limit: float = 100) -> dict[str, str]:
    values = {"": used, "_reserved": reserved, "_free": free, "_limit": limit}
    return {
        f'vibevoice_gpu_memory{name}_bytes{{{OF}, instance="a", device_id="0"}}': f"{value:g}x300"
        for name, value in values.items()
    }


def _voices() -> Iterator[Case]:
    alert, voice = "VibeVoiceHighFirstAudioLatency", {**OUT, "severity": "warning", "voice": "en-Ann"}
    yield Case(alert, "slow", first_audio(7, 1), BAD + 5, voice)
    yield Case(alert, "one in 40 slow", first_audio(39, 1))
    yield Case(alert, "slow but rare", first_audio(0, 0.5))
    alert, voice = "VibeVoiceVoiceSpecificFailureRate", {**OUT, "severity": "warning", "voice": "en-Ann"}
    yield Case(alert, "errors", requests(success=7, error=1, timeout=0), BAD + 10, voice)
    yield Case(alert, "timeouts", requests(success=7, error=0, timeout=1), BAD + 10, voice)
    yield Case(alert, "only failures ever", requests(error=8), ENOUGH + 10, voice)
    yield Case(alert, "cancelled and rejected do not count", requests(success=8, error=0, cancelled=20, rejected=20))
    yield Case(alert, "4 percent", requests(success=24, error=1))
    yield Case(alert, "rare", requests(error=0.3))
    alert, voice = "VibeVoiceUnderruns", {**OUT, "severity": "warning", "voice": "en-Ann"}
    underrun = f"vibevoice_playback_underrun_total{{{VOICE}}}"
    yield Case(alert, "gaps", {underrun: "0+2x300", **requests(success=8)}, ENOUGH + 10, voice)
    yield Case(alert, "few gaps", {underrun: "0+0.5x300", **requests(success=8)})
    yield Case(alert, "gaps but rare", {underrun: "0+1x300", **requests(success=0.5)})
    alert = "VibeVoiceSpeechCutOff"
    yield Case(alert, "one in eight", finished(eos=7, length=1, stopped=0, error=0), ENOUGH + 10, voice)
    yield Case(alert, "spoken to the end", finished(eos=8, length=0, stopped=4, error=1))
    yield Case(alert, "one in 200", finished(eos=199, length=1))
    yield Case(alert, "cut off but rare", finished(eos=0.2, length=0.2))


def limited(**by_limit: float) -> dict[str, str]:
    """Seconds of frames a minute by what they were spent on, and of the audio that they made: half as much."""
    of = f'{OF}, instance="a", device_id="0"'
    every = {"card": 0.0, "other_process": 0.0, "core": 0.0, "lock": 0.0, "unknown": 0.0, **by_limit}
    total = sum(every.values())
    return {
        **{
            f'vibevoice_frame_limit_seconds_total{{{of}, limit="{name}"}}': f"0+{each:g}x300"
            for name, each in every.items()
        },
        f"vibevoice_frame_limit_error_seconds_total{{{of}}}": "0+0.01x300",
        f"vibevoice_generate_busy_seconds_total{{{VOICE}}}": f"0+{total:g}x300",
        f"vibevoice_audio_produced_seconds_total{{{VOICE}}}": f"0+{total / 2:g}x300",
    }


def _limit() -> Iterator[Case]:
    alert, labels = "VibeVoiceHostIsTheLimit", {**OUT, "severity": "warning"}
    yield Case(alert, "the core", limited(core=45, card=5), 15, labels)
    yield Case(alert, "the lock", limited(lock=30, core=15, card=5), 15, labels)
    yield Case(alert, "the card", limited(core=20, card=30))
    yield Case(alert, "too few frames", limited(core=0.9))
    faster = limited(core=45, card=5)
    faster[f"vibevoice_audio_produced_seconds_total{{{VOICE}}}"] = "0+55x300"
    yield Case(alert, "fast enough", faster)


def _defects() -> Iterator[Case]:
    alert = "VibeVoiceDefectiveAudio"
    frames = {f'vibevoice_decode_duration_seconds_count{{{VOICE}, clock="host"}}': "0+100x300"}
    for kind, some, none in (("nan", 1, 0), ("clipped", 2, 0.5), ("silent", 40, 20)):
        labels = {**OUT, "severity": "warning", "voice": "en-Ann", "kind": kind}

        def defective(count: float, kind: str = kind) -> dict[str, str]:
            return {f'vibevoice_frames_defective_total{{{VOICE}, kind="{kind}"}}': f"0+{count:g}x300", **frames}

        yield Case(alert, kind, defective(some) | requests(success=8), ENOUGH + 5, labels)
        yield Case(alert, f"as {kind} as speech is", defective(none) | requests(success=8))
        yield Case(alert, f"{kind} but rare", defective(some) | requests(success=0.5))


def _burns() -> Iterator[Case]:
    for burn in BURNS:
        labels = {**OUT, "severity": burn.severity, "long_window": burn.long, "short_window": burn.short}
        fires = ENOUGH + minutes(burn.hold)
        yield Case("VibeVoiceSuccessBudgetBurn", burn.long, requests(success=4, error=4), fires, labels)
        yield Case("VibeVoiceFirstAudioBudgetBurn", burn.long, objective("0+8x300", "0x300"), fires, labels)
        yield Case("VibeVoiceContinuityBudgetBurn", burn.long, continuity("0+4x300", "0+4x300"), fires, labels)
    yield Case("VibeVoiceSuccessBudgetBurn", "within budget", requests(success=400, error=2))
    yield Case("VibeVoiceFirstAudioBudgetBurn", "within budget", objective("0+1x300", "0+39x300"))
    yield Case("VibeVoiceContinuityBudgetBurn", "within budget: C100 of 99.5 %", continuity("0+1x300", "0+199x300"))
    yield Case("VibeVoiceContinuityBudgetBurn", "rare", continuity("0+0.05x300", "0x300"))
    yield Case("VibeVoiceSuccessBudgetBurn", "rare", requests(error=0.05))
    yield Case("VibeVoiceFirstAudioBudgetBurn", "rare", objective("0+0.05x300", "0x300"))


def _memory() -> Iterator[Case]:
    alert = "VibeVoiceGpuMemoryNearLimit"
    device = {**OUT, "severity": "warning", "instance": "a", "device_id": "0"}
    yield Case(alert, "handed out", memory(used=95, reserved=96, free=4), 5, device)
    yield Case(alert, "taken by others", memory(used=10, reserved=12, free=3), 5, device)
    yield Case(alert, "reserved but free to hand out", memory(used=50, reserved=97, free=3))
    alert, event = (
        "VibeVoiceGpuOutOfMemory",
        f'vibevoice_gpu_memory_events_total{{{OF}, instance="a", device_id="0", event="oom"}}',
    )
    yield Case(alert, "the first ever", {event: "_x5 1x300"}, 6, device)
    yield Case(alert, "one more", {event: "0x60 1x300"}, 62, device)
    yield Case(alert, "none", {event: "0x300"})
    yield Case(alert, "a retry", {event.replace("oom", "retry"): "0+1x300"})


def _refusals() -> Iterator[Case]:
    alert, labels = "VibeVoiceMostRejected", {**OUT, "severity": "warning"}
    yield Case(alert, "three of four", requests(success=2, rejected=6), 8, labels)
    yield Case(alert, "one of four", requests(success=6, rejected=2))
    yield Case(alert, "a handful", requests(success=0, rejected=0.5))


def _stalls() -> Iterator[Case]:
    alert, age = "VibeVoiceStuckStream", f'vibevoice_streaming_oldest_progress_age_seconds{{{OF}, instance="a"}}'
    yield Case(alert, "stuck", {age: "0+20x300"}, 3, {**OUT, "severity": "warning", "instance": "a"})
    yield Case(alert, "working", {age: "0 2 1 5 29 3 0x300"})
    alert, active = "VibeVoiceTotalStall", f'vibevoice_streaming_active{{{VOICE}, instance="a"}}'
    audio = f'vibevoice_audio_produced_seconds_total{{{VOICE}, instance="a"}}'
    stuck = {**OUT, "severity": "critical", "how": "stuck"}
    yield Case(alert, "before its first frame ever", {active: "1x300"}, 3, stuck)
    # The last growth is at 10, so the two minutes up to 12 are the first that hold none.
    yield Case(alert, "after working", {active: "1x300", audio: "0+5x10 50x300"}, 15, stuck)
    yield Case(alert, "working", {active: "1x300", audio: "0+5x300"})
    yield Case(alert, "idle", {active: "0x300", audio: "50x300"})
    alert, info = (
        "VibeVoiceServiceGone",
        f'vibevoice_build_info{{{OF}, version="1", adapter="realtime", instance="%s"}}',
    )
    yield Case(alert, "killed", {info % "a": "1x9 stale"}, 12, {**OUT, "severity": "warning"})
    busy = dict.fromkeys(requests(success=8), "0+4x9 stale")
    gone = {**OUT, "severity": "critical", "how": "gone"}
    yield Case("VibeVoiceTotalStall", "killed under traffic", {info % "a": "1x9 stale", **busy}, 13, gone)
    yield Case("VibeVoiceTotalStall", "an idle one ended", {info % "a": "1x9 stale"})
    yield Case(alert, "there", {info % "a": "1x300"})
    yield Case(alert, "replaced by another instance", {info % "a": "1x9 stale", info % "b": "_x8 1x300"})
    alert = "VibeVoiceInstanceLost"
    yield Case(alert, "one of two", {info % "a": "1x300", info % "b": "1x29 stale"}, 40, {**OUT, "severity": "warning"})
    yield Case(alert, "a release", {info % "a": "1x120 stale", info % "b": "_x115 1x300"})


def _telemetry() -> Iterator[Case]:
    alert, dropped = (
        "VibeVoiceTelemetryDropped",
        f'vibevoice_telemetry_dropped_total{{{OF}, what="spans", reason="queue_full"}}',
    )
    labels = {**OUT, "severity": "warning", "what": "spans", "reason": "queue_full"}
    yield Case(alert, "the first ever", {dropped: "_x5 3x300"}, 6, labels)
    yield Case(alert, "more", {dropped: "3x60 4x300"}, 62, labels)
    yield Case(alert, "long ago", {dropped: "3x300"}, 1, labels)  # news to a Prometheus that has just started
    yield Case(alert, "none", {dropped: "0x300"})
    alert = "VibeVoiceCollectorLosing"
    collector = {"job": "otel-collector", "instance": "c:8888"}
    inside = 'job="otel-collector", instance="c:8888"'
    for counter in COLLECTOR_LOSSES:
        labels = {**collector, "severity": "warning", "service": "vibevoice", "counter": counter}
        yield Case(alert, counter, {f'{counter}{{{inside}, exporter="x"}}': "_x5 1x300"}, 6, labels)
    yield Case(alert, "nothing", {f'otelcol_receiver_refused_spans_total{{{inside}, receiver="otlp"}}': "0x300"})
    alert = "VibeVoiceExportQueueFilling"
    queue = {f'otelcol_exporter_queue_capacity{{{inside}, exporter="otlp"}}': "100x300"}
    size = f'otelcol_exporter_queue_size{{{inside}, exporter="otlp"}}'
    yield Case(
        alert,
        "filling",
        {size: "60x300", **queue},
        5,
        {**collector, "service": "vibevoice", "severity": "warning", "exporter": "otlp"},
    )
    yield Case(alert, "some", {size: "40x300", **queue})
    alert = "VibeVoiceCardinalityOverflow"
    name = "vibevoice_first_audio_latency_seconds_count"
    yield Case(
        alert, "overflow", {f'{name}{{{OF}, otel_metric_overflow="true"}}': "1x300"}, 5, {**OUT, "severity": "warning"}
    )
    yield Case(alert, "none", {f"{name}{{{VOICE}}}": "1x300"})
    alert, made = "VibeVoiceSeriesNearLimit", f'vibevoice_telemetry_series{{{OF}, instance="a"}}'
    limit = {f'vibevoice_telemetry_series_limit{{{OF}, instance="a"}}': "50000x300"}
    near = {**OUT, "severity": "warning", "instance": "a"}
    yield Case(alert, "near", {made: "41000x300", **limit}, 15, near)
    yield Case(alert, "far", {made: "30000x300", **limit})
    alert = "VibeVoiceTargetDown"
    labels = {"job": "otel-agent", "instance": "c:8889", "service": "vibevoice", "severity": "warning"}
    yield Case(alert, "agent", {'up{job="otel-agent", instance="c:8889"}': "1x9 0x300"}, 12, labels)
    yield Case(alert, "up", {'up{job="otel-agent", instance="c:8889"}': "1x300"})
    yield Case(alert, "another team's", {'up{job="their-job", instance="x"}': "0x300"})
    alert = "VibeVoiceProbeFailing"
    probe = f'vibevoice_probe_requests_total{{{OF}, target="here:8000", status="%s"}}'
    yield Case(
        alert,
        "errors",
        {probe % "error": "0+1x300", probe % "success": "0x300"},
        4,
        {**OUT, "severity": "warning", "target": "here:8000"},
    )
    yield Case(alert, "one failure", {probe % "error": "0x5 1x300", probe % "success": "0+1x300"})


CASES = (*_voices(), *_limit(), *_refusals(), *_defects(), *_burns(), *_memory(), *_stalls(), *_telemetry())
BUDGETS = {budget_left(each): 1 - (0.005 / each.budget) for each in OBJECTIVES}
