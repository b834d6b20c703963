"""Runs ``promtool test rules`` on one alert and the recording rules that it needs."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from dashboards.__main__ import HERE
from tools import toolchain

RULES = sorted((HERE / "rules").glob("*.yml"))


def needed(alert: str) -> dict[str, Any]:
    """The shipped rules of that alert, with what they read."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    records = {rule["record"]: rule["expr"] for group in groups for rule in group["rules"] if "record" in rule}
    wanted = {alert}
    expressions = [rule["expr"] for group in groups for rule in group["rules"] if rule.get("alert") == alert]
    while expressions:
        used = set(re.findall(r"\b(?:service|voice):[a-z0-9_:]+", expressions.pop())) - wanted
        wanted |= used
        expressions += [records[name] for name in used]
    kept = [
        {**group, "rules": [r for r in group["rules"] if (r.get("alert") or r["record"]) in wanted]} for group in groups
    ]
    return {"groups": [group for group in kept if group["rules"]]}


def run(
    folder: Path, rules: dict[str, Any], series: dict[str, str], checks: dict[str, Any], interval: str = "1m"
) -> str:
    """What promtool complains of; empty when all ``checks`` hold. ``interval`` is that of samples and evaluations."""
    (folder / "rules.yml").write_text(json.dumps(rules))
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": interval, "input_series": inputs, **checks}
    # promtool takes groups in random order otherwise. Prometheus runs them side by side: an alert may come an
    # evaluation later there.
    order = [group["name"] for group in rules["groups"]]
    suite = {"rule_files": ["rules.yml"], "evaluation_interval": interval, "group_eval_order": order, "tests": [test]}
    (folder / "test.yml").write_text(json.dumps(suite))
    command = [str(toolchain.require("promtool")), "test", "rules", str(folder / "test.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def firing(alert: str, minute: int, *expected: dict[str, str]) -> dict[str, Any]:
    """A check that exactly these alerts fire at that minute; alertname and alertstate are added."""
    samples = [
        {
            "labels": "ALERTS{"
            + ", ".join(f'{k}="{v}"' for k, v in {"alertname": alert, "alertstate": "firing", **labels}.items())
            + "}",
            "value": 1,
        }
        for labels in expected
    ]
    return {
        "expr": f'ALERTS{{alertname="{alert}", alertstate="firing"}}',
        "eval_time": f"{minute}m",
        "exp_samples": samples,
    }
