"""Seven simulated days: the alerts that are sent while all is well, and for each single fault, with Alertmanager's
inhibitions applied.

A sample and an evaluation each five minutes. Every fault has a service of its own, so that one replay shows them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dashboards.alerts import alerts
from tests.stack.fixtures import need
from tests.unit.rules import promtool
from tools.toolchain.recipes import ROOT

STEP_MINUTES = 5
DAYS = 7
STEPS = DAYS * 24 * 60 // STEP_MINUTES + 1
#: The fault's time: the fifth day, from two to five in the afternoon.
BEGIN, END = (((4 * 24 + hour) * 60) // STEP_MINUTES for hour in (14, 17))
AT_FAULT = np.zeros(STEPS, bool)
AT_FAULT[BEGIN:END] = True
#: A Collector's loss silences what follows from it at every service: it has a day of its own.
A_DAY_EARLIER = np.roll(AT_FAULT, -24 * 60 // STEP_MINUTES)
VOICES = ("en-Ann", "en-Bob")
Columns = dict[str, np.ndarray]
INHIBITIONS = yaml.safe_load((ROOT / "deploy" / "alertmanager" / "alertmanager.yml").read_text())["inhibit_rules"]


@dataclass
class Simulated:
    """A service's week, healthy until a fault changes it: events in each step by series, and gauges.

    Traffic follows the day between 4 and 60 requests a step; one in 500 fails, one in 60 is late, a few listeners
    leave.
    """

    name: str
    events: Columns = field(default_factory=dict)
    gauges: Columns = field(default_factory=dict)
    silent: np.ndarray = field(default_factory=lambda: np.zeros(STEPS, bool))

    def __post_init__(self) -> None:
        chance = np.random.default_rng([ord(letter) for letter in self.name])
        hours = np.arange(STEPS) * STEP_MINUTES / 60
        expected = 16 - 14 * np.cos(2 * math.pi * hours / 24)
        for voice in VOICES:
            asked = chance.poisson(expected)
            failed = chance.binomial(asked, 0.002)
            late = chance.binomial(asked - failed, 1 / 60)
            self.outcome(voice, asked, failed, late)
            self.events[f'vibevoice_streaming_requests_total{{{self.of}, voice="{voice}", status="cancelled"}}'] = (
                chance.binomial(asked, 0.05)
            )
        for instance in ("a", "b"):
            self.gauges[f'vibevoice_build_info{{{self.of}, instance="{instance}"}}'] = np.ones(STEPS)
            self.gauges[f'vibevoice_streaming_oldest_progress_age_seconds{{{self.of}, instance="{instance}"}}'] = (
                np.full(STEPS, 0.2)
            )
        for what, value in (("", 40.0), ("_reserved", 45.0), ("_free", 50.0), ("_limit", 100.0)):
            device = f'{self.of}, instance="a", device_id="0"'
            self.gauges[f"vibevoice_gpu_memory{what}_bytes{{{device}}}"] = np.full(STEPS, value)

    @property
    def of(self) -> str:
        return f'service="{self.name}", environment="prod"'

    def outcome(self, voice: str, asked: np.ndarray, failed: np.ndarray, late: np.ndarray) -> None:
        """Sets all that follows from how many requests there were, failed, and were late."""
        each, well = f'{self.of}, voice="{voice}"', asked - failed
        latency = "vibevoice_first_audio_latency_seconds"
        self.events |= {
            f'vibevoice_streaming_requests_total{{{each}, status="success"}}': well,
            f'vibevoice_streaming_requests_total{{{each}, status="error"}}': failed,
            f'vibevoice_first_audio_slo_total{{{each}, result="good"}}': well - late,
            f'vibevoice_first_audio_slo_total{{{each}, result="bad"}}': failed + late,
            f'{latency}_bucket{{{each}, le="0.4"}}': well - late,
            f'{latency}_bucket{{{each}, le="0.45"}}': well - late,
            f'{latency}_bucket{{{each}, le="1.0"}}': well,
            f'{latency}_bucket{{{each}, le="+Inf"}}': well,
            f"{latency}_count{{{each}}}": well,
            f"vibevoice_audio_produced_seconds_total{{{each}}}": well * 3,
        }
        self.gauges[f"vibevoice_streaming_active{{{each}}}"] = np.where(asked > 0, 1.0, 0.0)

    def asked(self, voice: str) -> np.ndarray:
        statuses = ("success", "error")
        prefix = f'vibevoice_streaming_requests_total{{{self.of}, voice="{voice}", status='
        return sum(self.events[f'{prefix}"{status}"}}'] for status in statuses)  # type: ignore[return-value]

    def series(self) -> dict[str, str]:
        """In promtool's notation."""
        columns = {name: np.cumsum(values) for name, values in self.events.items()} | self.gauges
        return {
            name: " ".join("_" if gone else f"{value:g}" for value, gone in zip(values, self.silent, strict=True))
            for name, values in columns.items()
        }


def fails(service: Simulated, voices: tuple[str, ...], share: float) -> None:
    """A share of these voices' requests fails while the fault lasts."""
    for voice in voices:
        asked = service.asked(voice)
        failed = np.where(AT_FAULT, np.round(asked * share), 0).astype(int)
        service.outcome(voice, asked, failed, np.zeros(STEPS, int))


def corrupt_voice(service: Simulated) -> None:
    fails(service, VOICES[:1], 1.0)


def slow_engine(service: Simulated) -> None:
    for voice in VOICES:
        asked = service.asked(voice)
        service.outcome(voice, asked, np.zeros(STEPS, int), np.where(AT_FAULT, asked, 0))


def hanging_engine(service: Simulated) -> None:
    for voice in VOICES:
        asked = np.where(AT_FAULT, 0, service.asked(voice))
        service.outcome(voice, asked, np.zeros(STEPS, int), np.zeros(STEPS, int))
        service.gauges[f'vibevoice_streaming_active{{{service.of}, voice="{voice}"}}'][AT_FAULT] = 4
    age = f'vibevoice_streaming_oldest_progress_age_seconds{{{service.of}, instance="a"}}'
    service.gauges[age][AT_FAULT] = 60 * np.arange(1, AT_FAULT.sum() + 1)


def killed(service: Simulated) -> None:
    service.silent |= AT_FAULT


def out_of_memory(service: Simulated) -> None:
    fails(service, VOICES, 0.5)
    device = f'{service.of}, instance="a", device_id="0"'
    service.gauges[f"vibevoice_gpu_memory_bytes{{{device}}}"][AT_FAULT] = 98
    service.events[f'vibevoice_gpu_memory_events_total{{{device}, event="oom"}}'] = AT_FAULT * 10


def collector_gone(service: Simulated) -> None:
    service.silent |= A_DAY_EARLIER


def one_instance_lost(service: Simulated) -> None:
    info = f'vibevoice_build_info{{{service.of}, instance="b"}}'
    service.gauges[info] = np.where(AT_FAULT, np.nan, 1.0)


def telemetry_lost(service: Simulated) -> None:
    lost = f'vibevoice_telemetry_dropped_total{{{service.of}, what="spans", reason="queue_full"}}'
    service.events[lost] = AT_FAULT * 50


#: Fault -> what it does, and how many pages it is worth: one where listeners suffer, none where they do not.
FAULTS: dict[str, tuple[Callable[[Simulated], None], int]] = {
    "corrupt-voice": (corrupt_voice, 1),
    "slow-engine": (slow_engine, 1),
    "hanging-engine": (hanging_engine, 1),
    "killed": (killed, 1),
    "out-of-memory": (out_of_memory, 1),
    "collector-gone": (collector_gone, 1),
    "one-instance-lost": (one_instance_lost, 0),
    "telemetry-lost": (telemetry_lost, 0),
}
QUIET = ("quiet", "quiet-too")


def sent() -> str:
    """PromQL: the alerts that fire and that no other one inhibits, by deploy/alertmanager/alertmanager.yml."""
    found = 'ALERTS{alertstate="firing"}'
    for rule in INHIBITIONS:
        source, target = (
            ", ".join(['alertstate="firing"', *rule[f"{side}_matchers"]]) for side in ("source", "target")
        )
        found += f" unless (ALERTS{{{target}}} and on ({', '.join(rule['equal'])}) ALERTS{{{source}}})"
    return found


#: What Alertmanager sends together: deploy/alertmanager/alertmanager.yml, route.group_by.
GROUP = "alertname, service_name, environment"


def test_a_week_of_every_fault(tmp_path: Path) -> None:
    """Quiet services send nothing; each fault that listeners suffer from is one page,
    and any is two tickets at most.
    """
    need("promtool")
    series: dict[str, str] = {}
    for name in (*FAULTS, *QUIET):
        service = Simulated(name)
        if name in FAULTS:
            FAULTS[name][0](service)
        series |= service.series()
    series |= {f'up{{job="{job}", instance="c"}}': f"1x{STEPS}" for job in ("otel-agent", "otel-collector")}
    series['up{job="otel-agent", instance="other"}'] = " ".join("0" if down else "1" for down in A_DAY_EARLIER)
    series = {name: text.replace("nan", "_") for name, text in series.items()}
    rules: dict[str, Any] = {
        "groups": [group for path in promtool.RULES for group in yaml.safe_load(path.read_text())["groups"]]
    }
    for group in rules["groups"]:
        group.pop("interval", None)
        # Thirty days are not simulated.
        group["rules"] = [
            rule for rule in group["rules"] if "30d" not in rule["expr"] and "30d" not in rule.get("record", "")
        ]
    over = f"{DAYS}d:{STEP_MINUTES}m"
    pages = f'group by ({GROUP}) (count_over_time(({sent()} and ALERTS{{severity="critical"}})[{over}]))'
    tickets = f"group by ({GROUP}) (count_over_time(({sent()})[{over}])) unless on ({GROUP}) {pages}"
    # Of these, chance leaves a ticket at some: one request in 60 is late, and in a week some half hour has ten of them.
    faulty = (
        'label_replace(vibevoice_build_info{service!~"quiet.*|collector-gone"}, "service_name", "$1", "service", '
        '"(.+)")'
    )
    quiet = faulty.replace("!~", "=~")
    paged = [name for name, (_, count) in FAULTS.items() if count]
    checks = [
        {
            "expr": f"count by (service_name) ({pages})",
            "eval_time": f"{DAYS}d",
            "exp_samples": [{"labels": f'{{service_name="{name}"}}', "value": 1} for name in paged],
        },
        {"expr": f"count by (service_name) ({tickets}) > 2", "eval_time": f"{DAYS}d", "exp_samples": []},
        {
            "expr": f"group by (service_name) ({tickets}) and on (service_name) {faulty}",
            "eval_time": f"{DAYS}d",
            "exp_samples": [{"labels": f'{{service_name="{name}"}}', "value": 1} for name in TICKETED],
        },
        {
            "expr": f"{tickets} unless on (service_name) {faulty} unless on (service_name) {quiet}",
            "eval_time": f"{DAYS}d",
            "exp_samples": [{"labels": '{alertname="VibeVoiceTargetDown"}', "value": 1}],
        },
    ]
    assert not promtool.run(tmp_path, rules, series, {"promql_expr_test": checks}, f"{STEP_MINUTES}m")


#: Faults that leave a ticket beside or in place of the page.
TICKETED = ("corrupt-voice", "slow-engine", "out-of-memory", "one-instance-lost", "telemetry-lost")


def test_pages_are_burn_rates_and_a_total_stall() -> None:
    """Whatever else is critical would wake people for what can wait."""
    pages = {alert.name for alert in alerts() if alert.severity == "critical"}
    assert pages == {
        *(f"VibeVoice{name}BudgetBurn" for name in ("Success", "FirstAudio", "Continuity")),
        "VibeVoiceTotalStall",
    }


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: f"{alert.name}-{alert.labels}")
def test_no_alert_fires_at_once(alert: Any) -> None:
    """A single evaluation is no evidence."""
    assert alert.hold not in {"", "0m", "0s"}


#: Of the state of machines and of the pipeline, not of requests: they say nothing of traffic and need none.
WITHOUT_TRAFFIC = {
    "VibeVoiceGpuMemoryNearLimit",
    "VibeVoiceGpuOutOfMemory",
    "VibeVoiceServiceGone",
    "VibeVoiceInstanceLost",
    "VibeVoiceTelemetryDropped",
    "VibeVoiceCollectorLosing",
    "VibeVoiceExportQueueFilling",
    "VibeVoiceCardinalityOverflow",
    "VibeVoiceSeriesNearLimit",
    "VibeVoiceTargetDown",
}
#: Traffic in another measure: an open stream, the probe's own requests, seconds of audio.
OTHER_TRAFFIC = {"VibeVoiceStuckStream", "VibeVoiceProbeFailing", "VibeVoiceTotalStall", "VibeVoiceHostIsTheLimit"}


def test_each_alert_has_a_minimum_of_traffic() -> None:
    """A share of a handful of requests says nothing."""
    for alert in alerts():
        if alert.name not in WITHOUT_TRAFFIC | OTHER_TRAFFIC:
            assert ">= 20" in alert.expression, alert.name


def test_each_alert_that_has_a_cause_is_silent_under_it() -> None:
    """Every alert is inhibited by another one, but those that are the beginning of things."""
    first = {"VibeVoiceTotalStall", "VibeVoiceTargetDown", "VibeVoiceExportQueueFilling"}
    names = {alert.name for alert in alerts()}
    targets = {
        name
        for rule in INHIBITIONS
        for matcher in rule["target_matchers"]
        for name in names
        if name in matcher and "!=" not in matcher
    }
    every = {name for rule in INHIBITIONS if 'alertname=~"VibeVoice.+"' in rule["target_matchers"] for name in names}
    of_a_service = {alert.name for alert in alerts() if "service_name" in alert.summary}
    assert (targets | (every & of_a_service)) >= names - first
