"""Who is woken finds a page that helps, and every query on it can be run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from dashboards.alerts import alerts
from tests.stack.fixtures import need
from tests.unit.dashboards import names
from tools import toolchain

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "runbooks"
PAGES = sorted(FOLDER.glob("VibeVoice*.md"))
QUERIES = [
    pytest.param(query, id=f"{page.stem}-{index}")
    for page in PAGES
    for index, query in enumerate(re.findall(r"```promql\n(.+?)\n```", page.read_text(), re.DOTALL))
]
SECTIONS = ["What it means", "First look", "Likely causes", "Remedy", "Escalate"]


def test_each_alert_has_its_page_and_each_page_its_alert() -> None:
    """runbook_url never leads nowhere, and no page describes what cannot fire."""
    assert {page.stem for page in PAGES} == {alert.name for alert in alerts()}
    assert all(alert.runbook.endswith(f"/docs/runbooks/{alert.name}.md") for alert in alerts())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_every_part(page: Path) -> None:
    """What it means, where to look first, causes with a query, what to do, when to call for help; links that lead
    somewhere.
    """
    text = page.read_text()
    assert text.startswith(f"# {page.stem}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    causes = text.partition("## Likely causes")[2].partition("## Remedy")[0]
    assert causes.count("### ") >= 2
    assert causes.count("```promql") >= 1
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (FOLDER / target).is_file(), target


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_uses_names_that_exist(query: str) -> None:
    """At 3 a.m. nobody should have to find out that a query is misspelt."""
    assert names.metrics(query)
    assert not names.unknown_metrics(query)
    assert not names.unknown_labels(query)


def test_every_query_is_promql(tmp_path: Path) -> None:
    """Prometheus' own parser accepts each of them."""
    need("promtool")
    rules = [f"      - record: q{index}\n        expr: "
             "|-\n" + "\n".join(f"          {line}" for line in query.values[0].split("\n"))
             for index, query in enumerate(QUERIES)]  # fmt: skip
    file = tmp_path / "rules.yml"
    file.write_text("groups:\n  - name: g\n    rules:\n" + "\n".join(rules) + "\n")
    done = subprocess.run(
        [str(toolchain.require("promtool")), "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_that_is_named_exists() -> None:
    """A remedy that names an environment variable names one that something reads."""
    root = FOLDER.parents[1]
    read = "".join(path.read_text() for path in [*root.glob("collector/*.yaml"), *root.glob("vibevoice_otel/**/*.py")])
    for page in PAGES:
        for name in re.findall(r"\b(?:COLLECTOR|VIBEVOICE)_[A-Z_]+\b", page.read_text()):
            assert name in read or name.removeprefix("VIBEVOICE_OTEL_").lower() in read, name
