"""The dashboards' own queries on the real service's series, well and with each fault."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from dashboards import queries
from dashboards.__main__ import HERE
from dashboards.boards import BOARDS, asked
from dashboards.dashboard import Dashboard, Panel, Query, panels
from dashboards.dashboard import queries as promql
from dashboards.faults import EXPECTED, Expectation, change, look, panel
from dashboards.scenario import CORRUPT, FAULTS, GOOD, HIGH_CFG, SLOW, Scenario, play, running
from tests.stack.fixtures import need
from tools.grafana import data

QUERIES = [
    pytest.param(panel, query, id=f"{board.uid}-{panel.id_val}-{index}") for board, panel, index, query in asked()
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


@pytest.mark.parametrize(("panel", "query"), QUERIES)
def test_a_query_runs_and_its_legend_has_its_labels(panel: Panel, query: Query, scenario: Scenario) -> None:
    """Prometheus takes it; healthy, it gives data, or the panel says why not; each {{label}} of its legend is there."""
    shown = look(scenario.prometheus, query, scenario.healthy[-1], "up")
    if not shown:
        assert panel.field_config.defaults.no_value
        return
    for label in (part.partition("}}")[0] for part in query.legend_format.split("{{")[1:]):
        assert all(label in dict(labels) for labels in shown), label
    if panel.type_val == "stat":
        assert len(shown) == 1
    if panel.type_val == "heatmap":
        assert all(set(dict(labels)) == {"le"} for labels in shown)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_healthy_dashboard_is_not_empty(board: Dashboard, scenario: Scenario) -> None:
    """Most panels have something to show; without are only those of a GPU's timing, of failures and of losses."""
    empty = {
        panel.title
        for panel in panels(board)
        if promql(panel)
        and not any(look(scenario.prometheus, query, scenario.healthy[-1], "up") for query in promql(panel))
    }
    allowed = {
        "Telemetry lost",
        "Errors by cause",
        "Failures over 24 h",
        "Launch latency",
        "GPU out of memory, or nearly",
        "Cold loads",
        "Success budget left",
        "First-audio budget left",
        "Continuity budget left",
        "Who is the limit",
        "What the frames' time is spent on",
        "A faster card saves at most",
        "A faster host saves at most",
        "The card itself",
        "Energy of a second of audio",
    }
    assert empty <= allowed


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
    shown = panel(expected.board, expected.panel)
    found = change(
        scenario.prometheus,
        promql(shown)[expected.query],
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
    """What slows or alters requests, but fails none, does not move the success panel: it would send an operator the
    wrong way.
    """
    success = panel("vibevoice-health", 10)
    assert not change(scenario.prometheus, promql(success)[0], scenario.healthy, scenario.phase(fault), "down").moved(
        "down"
    )


def shown_table(scenario: Scenario, board: str, number: int) -> dict[str, data.Column]:
    """The columns of a table panel over the whole scenario, by Grafana's own code."""
    chosen = panel(board, number)
    start, end = scenario.phases[0].start, scenario.phases[-1].end
    results = []
    for index, query in enumerate(promql(chosen)):
        text = queries.bound(query.expr, interval="10s", window=f"{round(end - start)}s")
        answer = scenario.prometheus.get("query", query=text, time=f"{end:.3f}")["result"]
        results.append((chr(ord("A") + index), answer))
    generated = json.loads((HERE / "generated" / f"{board}.json").read_text())["panels"]
    described = next(each for each in generated if each["id"] == number)
    return {column.name: column for column in data.shown(described, data.table_frames(results))}


def test_all_voices_shows_who_was_asked_for_the_most_failing_first(scenario: Scenario) -> None:
    """Columns in order, a row for each voice with requests and for no other, whole numbers, no NaN in any cell."""
    table = shown_table(scenario, "vibevoice-voice", 1)
    assert list(table) == ["voice", *queries.VOICES]
    assert table["voice"].text[0] == CORRUPT
    assert set(table["voice"].text) == {CORRUPT, SLOW, *GOOD}
    assert table["Failed"].text[0] == "100%"
    assert set(table["Failed"].text[1:]) == {"0%"}
    assert all(value == int(value) for value in table["Requests"].values)
    assert table["P95 first audio"].text[0] == "-"  # it never spoke
    assert not any("NaN" in text for column in table.values() for text in column.text)


@pytest.mark.parametrize(
    ("number", "label", "rows"), [(20, "cfg", ["1.5", f"{HIGH_CFG:.1f}"]), (21, "steps", ["5"])], ids=["cfg", "steps"]
)
def test_a_matrix_has_its_rows_and_columns_in_order(
    number: int, label: str, rows: list[str], scenario: Scenario
) -> None:
    """Rows as text in numeric order, columns short, medium, long; seconds in the cells alone, nothing for what was not
    asked for.
    """
    table = shown_table(scenario, "vibevoice-root-cause", number)
    assert list(table) == [label, *(name for name in ("short", "medium", "long") if name in table)]
    assert table[label].text == rows
    cells = [text for name, column in table.items() if name != label for text in column.text]
    assert all(re.fullmatch(r"-|[\d.]+ m?s", text) for text in cells), cells


def test_steps_are_drawn_in_numeric_order(scenario: Scenario) -> None:
    """The legend's order is that of Prometheus' answer."""
    chosen = panel("vibevoice-voice", 30)
    healthy = scenario.healthy[-1]
    found = scenario.prometheus.get(
        "query_range",
        query=queries.bound(promql(chosen)[0].expr, interval="5s"),
        start=f"{healthy.start:.3f}",
        end=f"{healthy.end:.3f}",
        step="1",
    )["result"]
    indices = [int(each["metric"]["step_index"]) for each in found]
    assert indices == sorted(indices)
    assert len(indices) > 1
