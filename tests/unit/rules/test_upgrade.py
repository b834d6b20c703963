"""Upgrade and rollback: a service and rules of which one is a release older neither fire without reason nor go blind.

``before/`` holds the rules of the release before; at a release they are replaced by its own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.boards import asked
from tests.stack.fixtures import need
from tests.unit.rules import promtool
from tests.unit.rules.cases import OF, first_audio, objective, requests

BEFORE = Path(__file__).parent / "before"
INFO = {f'vibevoice_build_info{{{OF}, version="1", adapter="realtime", instance="a"}}': "1x300"}
#: What the newer service has beside the older one's series.
NEWER = {
    f'vibevoice_continuity_slo_total{{{OF}, voice="en-Ann", result="good"}}': "0+8x300",
    f'vibevoice_continuity_slo_total{{{OF}, voice="en-Ann", result="bad"}}': "0x300",
    f'vibevoice_speech_finished_total{{{OF}, voice="en-Ann", finish_reason="stop"}}': "0+8x300",
}
SERVICES = {"older service": {}, "newer service": NEWER}
RULES = {"older rules": BEFORE, "newer rules": promtool.HERE / "rules"}
#: Fault -> (what the service counts, the alerts that must see it).
FAULTS = {
    "requests fail": (
        requests(success=4, error=4),
        {"VibeVoiceSuccessBudgetBurn", "VibeVoiceVoiceSpecificFailureRate"},
    ),
    "first audio is late": (first_audio(0, 8) | objective("0+8x300", "0x300"), {"VibeVoiceFirstAudioBudgetBurn"}),
    "nothing is heard": ({f'vibevoice_streaming_active{{{OF}, instance="a"}}': "1x300"}, {"VibeVoiceTotalStall"}),
}


@pytest.fixture(autouse=True)
def _promtool() -> None:
    need("promtool")


def loaded(folder: Path) -> dict[str, Any]:
    return {
        "groups": [
            group for path in sorted(folder.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]
        ]
    }


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("service", SERVICES)
def test_a_healthy_service_fires_nothing(service: str, rules: str, tmp_path: Path) -> None:
    """In three hours, whichever of the two is older."""
    series = requests(success=8, error=0) | first_audio(8, 0) | objective("0x300", "0+8x300") | INFO | SERVICES[service]
    firing = {"expr": 'ALERTS{alertstate="firing"}', "exp_samples": []}
    checks = [{**firing, "eval_time": f"{minute}m"} for minute in (5, 60, 180)]
    assert not promtool.run(tmp_path, loaded(RULES[rules]), series, {"promql_expr_test": checks})


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str, service: str, rules: str, tmp_path: Path) -> None:
    """After an hour its alerts fire, whichever of the two is older."""
    counted, wanted = FAULTS[fault]
    names = "|".join(sorted(wanted))
    check = {
        "expr": f'group by (alertname) (ALERTS{{alertstate="firing", alertname=~"{names}"}})',
        "eval_time": "60m",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(wanted)],
    }
    series = counted | INFO | SERVICES[service]
    assert not promtool.run(tmp_path, loaded(RULES[rules]), series, {"promql_expr_test": [check]})


def test_what_was_recorded_still_is() -> None:
    """Dashboards and queries of the release before find their recorded series under the newer rules."""
    old, new = (
        {rule["record"] for group in loaded(folder)["groups"] for rule in group["rules"] if "record" in rule}
        for folder in RULES.values()
    )
    assert old <= new


def test_newer_dashboards_say_why_a_panel_is_empty_under_older_rules() -> None:
    """A panel that reads what the older rules do not record has a text for its emptiness."""
    old = {rule["record"] for group in loaded(BEFORE)["groups"] for rule in group["rules"] if "record" in rule}
    for _, panel, _, query in asked():
        read = set(re.findall(r"\b(?:service|voice):[\w:]+", query.expr))
        assert panel.field_config.defaults.no_value or read <= old, panel.title
