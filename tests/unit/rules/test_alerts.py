"""Every alert fires when it must, not a minute earlier, and never without reason."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from dashboards.alerts import alerts
from tests.stack.fixtures import need
from tests.unit.rules import promtool
from tests.unit.rules.cases import BUDGETS, CASES, OF, Case, continuity, first_audio, objective, requests
from tools import toolchain

FIRING = [case for case in CASES if case.fires is not None]
SILENT = [case for case in CASES if case.fires is None]


@pytest.fixture(autouse=True)
def _promtool() -> None:
    need("promtool")


@pytest.mark.parametrize("case", FIRING, ids=str)
def test_fires_and_not_a_minute_before(case: Case, tmp_path: Path) -> None:
    """At its minute exactly one alert fires, with the labels that people route by; a minute before, none."""
    assert case.fires is not None
    rules = promtool.needed(case.alert)
    if (
        "long_window" in case.labels
    ):  # each burn rate is a rule of its own, and a fast burn sets off the slower ones as well
        for group in rules["groups"]:
            group["rules"] = [
                r for r in group["rules"] if "record" in r or r["labels"]["long_window"] == case.labels["long_window"]
            ]
    checks = [promtool.firing(case.alert, case.fires, case.labels)]
    if case.fires:
        checks.append(promtool.firing(case.alert, case.fires - 1))
    assert not promtool.run(tmp_path, rules, case.series, {"promql_expr_test": checks})


@pytest.mark.parametrize("case", SILENT, ids=str)
def test_stays_silent(case: Case, tmp_path: Path) -> None:
    """Health, and too little traffic to say anything, set off nothing in three hours."""
    checks = [promtool.firing(case.alert, minute) for minute in range(0, 181, 5)]
    assert not promtool.run(tmp_path, promtool.needed(case.alert), case.series, {"promql_expr_test": checks})


@pytest.mark.parametrize("alert", sorted({alert.name for alert in alerts()}))
def test_is_silent_without_data_and_has_cases(alert: str, tmp_path: Path) -> None:
    """No series, no alert; and every alert is proved in both directions by a case."""
    assert {case.fires is None for case in CASES if case.alert == alert} == {True, False}
    checks = [promtool.firing(alert, minute) for minute in (0, 5, 60, 180)]
    assert not promtool.run(tmp_path, promtool.needed(alert), {"unrelated": "1x300"}, {"promql_expr_test": checks})


def test_a_burn_that_is_over_is_silent(tmp_path: Path) -> None:
    """Ten bad minutes leave the long window above its limit for an hour; the short one says that it is over."""
    alert, series = "VibeVoiceFirstAudioBudgetBurn", objective("0+8x10 80x300", "0x10 0+1x300")
    rules = promtool.needed(alert)
    for group in rules["groups"]:
        group["rules"] = [r for r in group["rules"] if "record" in r or r["labels"]["long_window"] == "1h"]
    during = {"environment": "prod", "service": "vibevoice", "service_name": "tts", "severity": "critical"}
    checks = [promtool.firing(alert, 8, {**during, "long_window": "1h", "short_window": "5m"})]
    checks += [promtool.firing(alert, 17), {"expr": "service:vibevoice_first_audio:bad_ratio_1h > bool "
                                                    "0.72", "eval_time": "17m",
               "exp_samples": [{"labels": f"{{{OF}}}", "value": 1}]}]  # fmt: skip
    assert not promtool.run(tmp_path, rules, series, {"promql_expr_test": checks})


def test_the_text_that_people_read(tmp_path: Path) -> None:
    """Summary and description name the voice, the service and the figure,
    and the link leads to the alert's own page.
    """
    alert = "VibeVoiceVoiceSpecificFailureRate"
    (spec,) = (each for each in alerts() if each.name == alert)
    expected = {
        "exp_labels": {
            "severity": "warning",
            "service": "vibevoice",
            "service_name": "tts",
            "environment": "prod",
            "voice": "en-Ann",
        },
        "exp_annotations": {
            "summary": "Voice en-Ann of tts (prod) fails",
            "description": "12.5% of the requests for voice en-Ann over the last hour ended in error or timeout; the "
            "limit is 5%.",
            "runbook_url": spec.runbook,
        },
    }
    check = {"alert_rule_test": [{"alertname": alert, "eval_time": "20m", "exp_alerts": [expected]}]}
    assert not promtool.run(tmp_path, promtool.needed(alert), requests(success=7, error=1), check)


def test_budget_left(tmp_path: Path) -> None:
    """A half per cent of bad requests leaves half of a 1 % budget and nine tenths of a 5 % one."""
    groups = yaml.safe_load(promtool.RULES[0].read_text())["groups"]
    rules = {"groups": [group for group in groups if "objectives" in group["name"]]}
    series = requests(success=398, error=2) | objective("0+2x300", "0+398x300") | continuity("0+2x300", "0+398x300")
    checks = [
        {
            "expr": f"round({name}, 0.0001)",
            "eval_time": "60m",
            "exp_samples": [{"labels": f"{{{OF}}}", "value": round(left, 4)}],
        }
        for name, left in BUDGETS.items()
    ]
    assert not promtool.run(tmp_path, rules, series, {"promql_expr_test": checks})


def test_the_percentile_is_that_of_all_instances(tmp_path: Path) -> None:
    """A slow instance among two is seen in the one figure of the service; labels that tell instances apart are gone."""
    series = first_audio(10, 0) | {
        name.replace('instance="a"', 'instance="b"'): text for name, text in first_audio(0, 10).items()
    }
    name = "voice:vibevoice_first_audio_latency_seconds:p95_30m"
    check = {
        "expr": f"round({name}, 0.001)",
        "eval_time": "30m",
        "exp_samples": [{"labels": f'{{{OF}, voice="en-Ann"}}', "value": 0.495}],
    }
    assert not promtool.run(
        tmp_path, promtool.needed("VibeVoiceHighFirstAudioLatency"), series, {"promql_expr_test": [check]}
    )


def test_promtool_accepts_the_files() -> None:
    """The shipped files pass Prometheus' own check, lint included."""
    command = [
        str(toolchain.require("promtool")),
        "check",
        "rules",
        "--lint=all",
        "--lint-fatal",
        *map(str, promtool.RULES),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
