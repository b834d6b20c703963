"""What a firing alert's mark on a dashboard reads, run by Prometheus' own engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dashboards.__main__ import HERE
from dashboards.dashboard import TITLES
from dashboards.queries import bound
from tests.stack.fixtures import need
from tests.unit.rules import promtool

#: Labels of an alert beside those that all have -> the mark's title, and its text.
READ = {
    "of a voice": (
        {"service_name": "tts", "environment": "prod", "voice": "en-Ann"},
        ("VibeVoiceAny tts", "warning prod en-Ann"),
    ),
    "of a service": ({"service_name": "tts", "environment": "prod"}, ("VibeVoiceAny tts", "warning prod")),
    "of a Collector": ({"instance": "c:8888"}, ("VibeVoiceAny", "warning")),
}


def written(labels: dict[str, str]) -> str:
    return f"ALERTS{{{', '.join(f'{name}={json.dumps(value)}' for name, value in labels.items())}}}"


@pytest.mark.parametrize("uid", TITLES)
@pytest.mark.parametrize("name", READ)
def test_a_mark_reads_well_whatever_its_alert_is_of(name: str, uid: str, tmp_path: Path) -> None:
    """For a label that a series lacks Grafana would write its name: title and text are labels that each mark has."""
    need("promtool")
    own, (title, words) = READ[name]
    labels = {"alertname": "VibeVoiceAny", "alertstate": "firing", "service": "vibevoice", "severity": "warning", **own}
    marks = json.loads((HERE / "generated" / f"{uid}.json").read_text())["annotations"]["list"]
    (mark,) = (each for each in marks if each["name"] == "Tickets")
    assert (mark["titleFormat"], mark["textFormat"]) == ("{{title}}", "{{words}}")
    shown = {"labels": written({**labels, "title": title, "words": words}), "value": 1}
    check = {"expr": bound(mark["expr"]), "eval_time": "1m", "exp_samples": [shown]}
    assert not promtool.run(tmp_path, {"groups": []}, {written(labels): "1x5"}, {"promql_expr_test": [check]})
