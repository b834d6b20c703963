"""The alerts. What each means and what to do stands in docs/runbooks/NAME.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dashboards import thresholds as limits
from dashboards.promql import SERVICE, VOICE, grown, growth, series, share_above, total
from dashboards.recording import (
    ACTIVE,
    CODES,
    INSTANCES,
    LIMIT,
    VOICE_FAILURES,
    VOICE_FIRST_AUDIOS,
    VOICE_P95,
    VOICE_REQUESTS,
    bad_ratio,
    counted,
)
from vibevoice_otel import semconv
from vibevoice_otel.semconv import Limit

RUNBOOKS = "https://github.com/vibevoice-otel/vibevoice-otel/blob/main/docs/runbooks"
#: Prometheus jobs whose silence blinds us: deploy/prometheus/*.yml.
JOBS = ("vibevoice", "otel-agent", "otel-span-metrics", "otel-collector")
DEVICE = "service, environment, instance, device_id"
OF = "{{ $labels.service_name }} ({{ $labels.environment }})"
#: The Collector's own counters of what it lost.
COLLECTOR_LOSSES = tuple(
    f"otelcol_{what}_{items}_total"
    for what in ("receiver_refused", "exporter_enqueue_failed", "exporter_send_failed")
    for items in ("spans", "metric_points")
)


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. Pages (critical) are burn rates and a total stall; all others are tickets.

    Args:
        hold: how long the expression must stay true.
        summary, description: Prometheus templates.
    """

    name: str
    expression: str
    hold: str
    severity: limits.Severity
    summary: str
    description: str
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def runbook(self) -> str:
        return f"{RUNBOOKS}/{self.name}.md"

    def named(self) -> str:
        """The expression, with the series' service kept as service_name: the alert's own service label is always
        vibevoice.
        """
        return f'label_replace(\n{self.expression},\n"service_name", "$1", "service", "(.+)")'


def _voices() -> Iterator[Alert]:
    late = f"({share_above(semconv.SLO_FIRST_AUDIO_SECONDS, semconv.FIRST_AUDIO, '30m', VOICE)})"
    yield Alert(
        "VibeVoiceHighFirstAudioLatency",
        f"{VOICE_P95} > {semconv.SLO_FIRST_AUDIO_SECONDS:g}\nand {VOICE_FIRST_AUDIOS} >= {limits.MIN_REQUESTS}\n"
        f"and {late} * {VOICE_FIRST_AUDIOS} >= {limits.MIN_BAD}",
        "5m",
        "warning",
        "Voice {{ $labels.voice }} of " + OF + " starts to speak late",
        "The P95 of the first-audio latency of voice {{ $labels.voice }} over 30 minutes is "
        "{{ $value | humanizeDuration }}; "
        f"the objective is {semconv.SLO_FIRST_AUDIO_SECONDS:g} s.",
    )
    yield Alert(
        "VibeVoiceVoiceSpecificFailureRate",
        f"{VOICE_FAILURES} > {limits.FAILURE_RATIO:g}\nand {VOICE_REQUESTS} >= {limits.MIN_REQUESTS}\n"
        f"and {VOICE_FAILURES} * {VOICE_REQUESTS} >= {limits.MIN_BAD}",
        "10m",
        "warning",
        "Voice {{ $labels.voice }} of " + OF + " fails",
        f"{{{{ $value | humanizePercentage }}}} of the requests for voice {{{{ $labels.voice }}}} over the last hour "
        f"ended in error or timeout; the limit is {limits.FAILURE_RATIO:.0%}.",
    )
    requests = f"{total(VOICE, growth(semconv.REQUESTS, '30m'))}"
    yield Alert(
        "VibeVoiceUnderruns",
        f"{total(VOICE, growth(semconv.UNDERRUN, '30m'))} / {requests} > {limits.UNDERRUNS_PER_REQUEST:g}\n"
        f"and {requests} >= {limits.MIN_REQUESTS}",
        "10m",
        "warning",
        "Listeners of voice {{ $labels.voice }} of " + OF + " hear gaps",
        "Over 30 minutes a request ran out of audio {{ $value | humanize }} times on average; the limit is "
        f"{limits.UNDERRUNS_PER_REQUEST:g}.",
    )
    ended = total(VOICE, growth(semconv.FINISHED, "30m"))
    cut_off = total(VOICE, growth(semconv.FINISHED, "30m", f'finish_reason="{semconv.FinishReason.LENGTH}"'))
    yield Alert(
        "VibeVoiceSpeechCutOff",
        f"{cut_off} / {ended} > {limits.CUT_OFF_RATIO:g}\nand round({cut_off}) >= {limits.CUT_OFF_REQUESTS}\n"
        f"and {ended} >= {limits.MIN_REQUESTS}",
        "10m",
        "warning",
        "Speech of voice {{ $labels.voice }} of " + OF + " is cut off",
        "The model's length budget ended {{ $value | humanizePercentage }} of the voice's requests over 30 minutes "
        "in place of the end of "
        f"speech; the limit is {limits.CUT_OFF_RATIO:.0%}. To the service they are successes.",
    )


def _defects() -> Iterator[Alert]:
    frames = total(VOICE, growth(semconv.DECODE_DURATION, "30m", suffix="_count"))
    requests = total(VOICE, growth(semconv.REQUESTS, "30m"))
    for kind, share in limits.DEFECTIVE_RATIO.items():
        defective = total(VOICE, growth(semconv.DEFECTIVE_FRAMES, "30m", f'kind="{kind}"'))
        yield Alert(
            "VibeVoiceDefectiveAudio",
            f"{defective} / {frames} > {share:g}\nand {requests} >= {limits.MIN_REQUESTS}",
            "5m",
            "warning",
            f"Voice {{{{ $labels.voice }}}} of {OF} makes {kind} audio",
            f"{{{{ $value | humanizePercentage }}}} of the voice's audio frames over 30 minutes are {kind}; the "
            f"limit is {share:.0%}.",
            {"kind": kind},
        )


def _pace(factor: float) -> str:
    return "faster than" if factor == 1 else f"{factor:g} times as fast as"


def _burns() -> Iterator[Alert]:
    for objective in limits.OBJECTIVES:
        camel = objective.title.title().replace(" ", "")
        for burn in limits.BURNS:
            limit = f"{burn.factor * objective.budget:g}"
            yield Alert(
                f"VibeVoice{camel}BudgetBurn",
                f"{bad_ratio(objective, burn.long)} > {limit}\n"
                f"and {bad_ratio(objective, burn.short)} > {limit}\n"
                f"and {counted(objective, burn.long)} >= {limits.MIN_REQUESTS}\n"
                f"and {bad_ratio(objective, burn.long)} * {counted(objective, burn.long)} >= {limits.MIN_BAD}",
                burn.hold,
                burn.severity,
                f"{OF} burns its {objective.title.lower()} budget {_pace(burn.factor)} {semconv.SLO_WINDOW_DAYS} "
                "days allow",
                f"{{{{ $value | humanizePercentage }}}} of the requests of the last {burn.long} missed the objective "
                f"({objective.ratio:.0%} over {semconv.SLO_WINDOW_DAYS} days), and those of the last {burn.short} as "
                "well.",
                {"long_window": burn.long, "short_window": burn.short},
            )


def _memory() -> Iterator[Alert]:
    used, reserved, limit, free = (
        f"max by ({DEVICE}) ({series(metric)})"
        for metric in (
            semconv.GPU_MEMORY,
            semconv.GPU_MEMORY_RESERVED,
            semconv.GPU_MEMORY_LIMIT,
            semconv.GPU_MEMORY_FREE,
        )
    )
    left = f"{1 - limits.GPU_MEMORY_RATIO:g}"
    yield Alert(
        "VibeVoiceGpuMemoryNearLimit",
        # torch reserves more than it hands out, so what is reserved but not handed out is still to be had; and other
        # processes take too.
        f"({limit} - {used}) / {limit} < {left}\nor ({free} + {reserved} - {used}) / {limit} < {left}",
        "5m",
        "warning",
        "GPU {{ $labels.device_id }} of " + OF + " has little memory left",
        "Only {{ $value | humanizePercentage }} of the memory limit of GPU {{ $labels.device_id }} on "
        "{{ $labels.instance }} is left.",
    )
    yield Alert(
        "VibeVoiceGpuOutOfMemory",
        total(DEVICE, growth(semconv.GPU_MEMORY_EVENTS, "10m", 'event="oom"')) + " > 0",
        "1m",
        "warning",
        "GPU {{ $labels.device_id }} of " + OF + " ran out of memory",
        "torch failed to allocate {{ $value | humanize }} times in 10 minutes on {{ $labels.instance }}; those "
        "requests failed.",
    )


def _limit() -> Iterator[Alert]:
    busy, audio = (total(SERVICE, growth(metric, "10m")) for metric in (semconv.GENERATE_BUSY, semconv.AUDIO_PRODUCED))
    yield Alert(
        "VibeVoiceHostIsTheLimit",
        f"{busy} / {audio} > {limits.REAL_TIME:g}\nand {audio} >= {limits.LEAST_AUDIO_SECONDS}\n"
        f"and min_over_time({LIMIT}[5m]) >= {CODES[Limit.CORE]}",
        "10m",
        "warning",
        OF + " is slower than speech while its card waits for the host",
        "A second of audio takes {{ $value | humanizeDuration }} (10 minutes), and most of the frames' time is the "
        "host's: a faster card would not help.",
    )


def _refusals() -> Iterator[Alert]:
    refused, every = (
        total(SERVICE, growth(semconv.REQUESTS, "5m", *matchers)) for matchers in (('status="rejected"',), ())
    )
    yield Alert(
        "VibeVoiceMostRejected",
        f"{refused} / {every} > {limits.REJECTED_RATIO:g}\nand {every} >= {limits.MIN_REQUESTS}",
        "5m",
        "warning",
        OF + " turns most of its listeners away",
        "{{ $value | humanizePercentage }} of the requests of the last 5 minutes were refused before any work: busy, "
        "not admitted or not understood. They count in no objective, so no other alert sees them.",
    )


def _stalls() -> Iterator[Alert]:
    instance = "service, environment, instance"
    yield Alert(
        "VibeVoiceStuckStream",
        # The maximum over 2 minutes, because the service's own timeout may end the stream, and the next one sticks as
        # well.
        f"max by ({instance}) (max_over_time({series(semconv.PROGRESS_AGE)}[2m])) > {limits.STUCK_SECONDS}",
        "1m",
        "warning",
        "A stream of " + OF + " makes no progress",
        "An open stream on {{ $labels.instance }} has made no audio frame for {{ $value | humanizeDuration }}.",
    )
    yield Alert(
        "VibeVoiceTotalStall",
        f"avg_over_time({ACTIVE}[2m]) > 0.5\n"
        f"unless on ({SERVICE}) {total(SERVICE, growth(semconv.AUDIO_PRODUCED, '2m'))} > 0",
        "3m",
        "critical",
        OF + " has streams open and makes no audio at all",
        "{{ $value | humanize }} streams were open on average over 2 minutes, and no instance has made a second of "
        "audio.",
        {"how": "stuck"},
    )
    yield Alert(
        "VibeVoiceTotalStall",
        f"max_over_time({INSTANCES}[1h]) unless on ({SERVICE}) {INSTANCES}\n"
        f"and on ({SERVICE}) max_over_time({counted(limits.SUCCESS, '1h')}[1h]) >= {limits.MIN_REQUESTS}",
        "3m",
        "critical",
        OF + " had traffic and reports nothing any more",
        "All of the {{ $value }} instances that reported within the last hour are silent. Users hear nothing, or "
        "nothing shows whether they do.",
        {"how": "gone"},
    )
    yield Alert(
        "VibeVoiceServiceGone",
        f"max_over_time({INSTANCES}[1h]) unless on ({SERVICE}) {INSTANCES}",
        "2m",
        "warning",
        OF + " reports nothing any more",
        "All of the {{ $value }} instances that reported within the last hour are silent: killed, cut off, or shut "
        "down.",
    )
    yield Alert(
        "VibeVoiceInstanceLost",
        # The median of the hour, because old and new instances overlap while a release rolls out.
        f"{INSTANCES} < floor(quantile_over_time(0.5, {INSTANCES}[1h]))",
        "10m",
        "warning",
        OF + " runs with fewer instances than it did",
        "{{ $value }} instances report; for most of the last hour there were more.",
    )


def _telemetry() -> Iterator[Alert]:
    yield Alert(
        "VibeVoiceTelemetryDropped",
        total("service, environment, what, reason", growth(semconv.DROPPED, "10m")) + " > 0",
        "1m",
        "warning",
        OF + " loses telemetry",
        "{{ $value | humanize }} {{ $labels.what }} were lost in 10 minutes, because: {{ $labels.reason }}.",
    )
    losses = (
        f'label_replace(sum by (job, instance) ({grown(name, "10m")}), "counter", "{name}", "", "")'
        for name in COLLECTOR_LOSSES
    )
    yield Alert(
        "VibeVoiceCollectorLosing",
        "(\n" + "\nor ".join(losses) + "\n) > 0",
        "1m",
        "warning",
        "Collector {{ $labels.instance }} loses telemetry",
        "{{ $labels.counter }} grew by {{ $value | humanize }} in 10 minutes.",
    )
    yield Alert(
        "VibeVoiceExportQueueFilling",
        "max by (job, instance, exporter) (otelcol_exporter_queue_size / otelcol_exporter_queue_capacity) > "
        f"{limits.QUEUE_RATIO:g}",
        "5m",
        "warning",
        "Collector {{ $labels.instance }} cannot get rid of its data",
        "The queue of {{ $labels.exporter }} is {{ $value | humanizePercentage }} full; past 100 % data is refused.",
    )
    yield Alert(
        "VibeVoiceCardinalityOverflow",
        f'count by ({SERVICE}) ({{__name__=~"vibevoice_.+", otel_metric_overflow="true"}}) > 0',
        "5m",
        "warning",
        OF + " has more series than its limit",
        "{{ $value }} series are overflow series: their sums are exact, their voice, cfg and steps are unknown.",
    )
    used, limit = (f"max by ({SERVICE}, instance) ({series(each)})" for each in (semconv.SERIES, semconv.SERIES_LIMIT))
    yield Alert(
        "VibeVoiceSeriesNearLimit",
        f"{used} / {limit} > {limits.SERIES_RATIO:g}",
        "15m",
        "warning",
        OF + " is near its limit of series",
        "{{ $labels.instance }} uses {{ $value | humanizePercentage }} of VIBEVOICE_OTEL_MAX_SERIES; "
        "past it new combinations share one series.",
    )
    yield Alert(
        "VibeVoiceTargetDown",
        f'up{{job=~"{"|".join(JOBS)}"}} == 0',
        "2m",
        "warning",
        "Prometheus cannot scrape {{ $labels.job }} at {{ $labels.instance }}",
        "Nothing that this target stands for is seen, alerts on it included.",
    )
    probe = total(
        "service, environment, target", growth(semconv.PROBE_REQUESTS, "5m", f'status!="{semconv.Status.SUCCESS}"')
    )
    yield Alert(
        "VibeVoiceProbeFailing",
        f"round({probe}) >= {limits.PROBE_FAILURES}",
        "1m",
        "warning",
        "Synthetic requests to {{ $labels.target }} fail",
        "{{ $value }} of the probe's requests of the last 5 minutes failed. Users' requests probably do too.",
    )


def alerts() -> tuple[Alert, ...]:
    """All alerts; several rules may share a name (one page in docs/runbooks/ for them all)."""
    return (*_voices(), *_defects(), *_burns(), *_memory(), *_limit(), *_refusals(), *_stalls(), *_telemetry())
