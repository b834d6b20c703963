"""The dashboards' own queries on the real service's series, well and with each fault."""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest

from dashboards import queries
from dashboards.boards import BOARDS
from dashboards.faults import EXPECTED, Expectation, change, look, panel
from dashboards.panels import Board, Panel, Query
from dashboards.scenario import FAULTS, Scenario, play, running
from tests.stack.fixtures import need

QUERIES = [
    pytest.param(board, panel, query, id=f"{board.uid}-{panel.id}-{index}")
    for board in BOARDS
    for panel in board.panels
    for index, query in enumerate(panel.queries)
]
pytestmark = [
    pytest.mark.serial,
    pytest.mark.timeout(900),
]  # the scenario plays inside the first test: a minute on an idle machine


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    """The service, well and then with one fault after the other."""
    need("otelcol-vibevoice", "prometheus")
    with running(tmp_path_factory.mktemp("scenario")) as scenario:
        play(scenario)
        yield scenario


@pytest.mark.parametrize(("board", "panel", "query"), QUERIES)
def test_a_query_runs_and_its_legend_has_its_labels(
    board: Board, panel: Panel, query: Query, scenario: Scenario
) -> None:
    """Prometheus takes it; healthy, it gives data, or the panel says why not; each {{label}} of its legend is there."""
    shown = look(scenario.prometheus, query, scenario.healthy[-1], "up")
    if not shown:
        assert panel.empty
        return
    for label in (part.partition("}}")[0] for part in query.legend.split("{{")[1:]):
        assert all(label in dict(labels) for labels in shown), label
    if panel.kind == "stat":
        assert len(shown) == 1
    if panel.kind == "heatmap":
        assert all(set(dict(labels)) == {"le"} for labels in shown)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_healthy_dashboard_is_not_empty(board: Board, scenario: Scenario) -> None:
    """Most panels have something to show; without are only those of a GPU's timing, of failures and of losses."""
    empty = {
        panel.title
        for panel in board.panels
        if panel.queries
        and not any(look(scenario.prometheus, query, scenario.healthy[-1], "up") for query in panel.queries)
    }
    allowed = {
        "Telemetry lost",
        "Errors by cause",
        "Launch latency",
        "GPU out of memory, or nearly",
        "Cold loads",
        "Success budget left",
    }
    assert empty <= allowed | {"First-audio budget left"}


@pytest.mark.parametrize("name", queries.VARIABLES)
def test_a_variable_has_values(name: str, scenario: Scenario) -> None:
    """Each drop-down has something to choose."""
    inside = queries.bound(queries.VARIABLES[name]).removeprefix("label_values(").removesuffix(")")
    expression, _, label = inside.rpartition(",")
    values = scenario.prometheus.get(f"label/{label.strip()}/values", **{"match[]": expression})
    assert values
    if name == "voice":
        assert "en-Carter_man" in values


@pytest.mark.parametrize("expected", EXPECTED, ids=str)
def test_a_fault_is_seen_where_an_operator_looks_first(expected: Expectation, scenario: Scenario) -> None:
    """The panel moves in the stated direction by more than three times the spread of the healthy rounds."""
    _, shown = panel(expected.board, expected.panel)
    found = change(
        scenario.prometheus,
        shown.queries[expected.query],
        scenario.healthy,
        scenario.phase(expected.fault),
        expected.direction,
        expected.series,
    )
    assert found.moved(expected.direction), found


def test_every_fault_has_a_panel() -> None:
    """No fault of the list is left out of the test above."""
    assert {expected.fault for expected in EXPECTED} == set(FAULTS)


@pytest.mark.parametrize("fault", ["long text", "slow reader", "cfg too high"])
def test_a_fault_elsewhere_leaves_success_alone(fault: str, scenario: Scenario) -> None:
    """What slows or alters requests, but fails none, does not move the success panel: it would send an operator the wrong way."""
    _, success = panel("vibevoice-health", 10)
    assert not change(scenario.prometheus, success.queries[0], scenario.healthy, scenario.phase(fault), "down").moved(
        "down"
    )


@pytest.mark.skipif("TEMPO_URL" not in os.environ, reason="TEMPO_URL is not set: no Tempo to run TraceQL on")
@pytest.mark.parametrize("traceql", sorted({panel.traceql for board in BOARDS for panel in board.panels}))
def test_traceql_runs(traceql: str) -> None:
    """A real Tempo takes every TraceQL expression."""
    query = urllib.parse.urlencode({"q": queries.bound(traceql)})
    with urllib.request.urlopen(f"{os.environ['TEMPO_URL']}/api/search?{query}", timeout=10) as answer:
        assert "traces" in json.load(answer)
