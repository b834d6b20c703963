"""The dashboards say what they should, in JSON that Grafana reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from dashboards import queries, thresholds
from dashboards.__main__ import HERE, stale
from dashboards.alerts import RUNBOOKS, alerts
from dashboards.boards import BOARDS, asked
from dashboards.dashboard import TITLES, Panel, panels
from dashboards.dashboard import queries as promql
from dashboards.panels import REQUEST_PANELS, REQUESTS_UID
from dashboards.promql import series, share_above
from tests.unit.dashboards import names
from vibevoice_otel import semconv

PANELS = [
    pytest.param(board.uid, panel, id=f"{board.uid}-{panel.id_val}") for board in BOARDS for panel in panels(board)
]
EXPRESSIONS = [
    pytest.param(query.expr, id=f"{board.uid}-{panel.id_val}-{index}") for board, panel, index, query in asked()
]
#: Panels that list traces -> what they ask for.
TRACEQL = {panel.id_val: panel.targets[0].query for board in BOARDS for panel in panels(board) if not promql(panel)}
BOARD = pytest.mark.parametrize("uid", TITLES)


def load(uid: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((HERE / "generated" / f"{uid}.json").read_text())
    return loaded


def variables(uid: str) -> set[str]:
    return {each["name"] for each in load(uid)["templating"]["list"]}


def test_the_committed_files_are_the_generated_ones() -> None:
    """Whoever changes a name, a threshold or a panel runs `make dashboards`."""
    assert stale() == []


def test_the_check_names_what_differs(tmp_path: Path) -> None:
    """`python -m dashboards --check` exits 0 when all is up to date, and refuses what it does not know."""
    for arguments, code in ((["--check"], 0), (["--nonsense"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "dashboards", *arguments], cwd=HERE.parent, capture_output=True, check=False
        )
        assert done.returncode == code, done.stderr


@BOARD
def test_what_the_published_types_leave_out_is_written(uid: str) -> None:
    """An annotation's own words, and what the list of variables shows of each."""
    loaded = load(uid)
    assert all(mark["titleFormat"] and mark["textFormat"] for mark in loaded["annotations"]["list"])
    defined = {each["name"]: each["definition"] for each in loaded["templating"]["list"] if "definition" in each}
    assert defined == {
        each["name"]: each["query"]["query"] for each in loaded["templating"]["list"] if each["type"] == "query"
    }


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_only_names_of_the_contract(expression: str) -> None:
    """Every metric and label that a panel reads exists in semconv.py (or is recorded from such)."""
    assert names.metrics(expression)
    assert not names.unknown_metrics(expression)
    assert not names.unknown_labels(expression)


@pytest.mark.parametrize("name", queries.VARIABLES)
def test_variables_read_names_of_the_contract(name: str) -> None:
    """A variable that reads a metric that is not there would be empty for ever."""
    inside = queries.VARIABLES[name].removeprefix("label_values(").removesuffix(")")
    expression, _, label = inside.rpartition(",")
    assert not names.unknown_metrics(expression)
    assert not names.unknown_labels(expression)
    assert label.strip() in {"service", "environment", "instance", "voice"}


@BOARD
def test_marks_read_names_of_the_contract(uid: str) -> None:
    """So do annotations; what an operator changes is all of build_info but the adapters."""
    for mark in load(uid)["annotations"]["list"]:
        assert not names.unknown_metrics(mark["expr"])
        assert not names.unknown_labels(mark["expr"])
    assert {each.key for each in semconv.BUILD_INFO.attributes} - {each.key for each in queries.CHANGING} == {"adapter"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_own_series_are_filtered_by_what_the_reader_chose(expression: str) -> None:
    """Each selector of a series of ours obeys $service and $environment,
    and $instance unless it was recorded without.
    """
    for name in names.metrics(expression) - names.FOREIGN:
        chosen = [labels for selected, labels in names.selectors(expression) if selected == name]
        assert chosen, name
        wanted = {"service", "environment"} | (set() if name in names.RECORDED else {"instance"})
        assert all(wanted <= labels for labels in chosen), name


@pytest.mark.parametrize(("uid", "panel"), PANELS)
def test_a_panel_explains_itself(uid: str, panel: Panel) -> None:
    """A description, a unit, a runbook that exists, and links that keep filters and time."""
    assert len(panel.description) > 20
    assert panel.field_config.defaults.unit
    (shown,) = (each for each in load(uid)["panels"] if each["id"] == panel.id_val)
    links = {link["title"]: link["url"] for link in shown["links"]}
    assert links["Runbook"] in {f"{RUNBOOKS}/{alert.name}.md" for alert in alerts()}
    assert links["Traces with the same filters"].startswith("/d/vibevoice-root-cause?viewPanel=3")
    if uid != "vibevoice-voice":
        assert links["By voice"].startswith("/d/vibevoice-voice?")
    for name in variables(uid) & queries.VARIABLES.keys():
        assert "${" + name + ":queryparam}" in " ".join(links.values())


@BOARD
def test_links_use_only_variables_that_the_dashboard_has(uid: str) -> None:
    """An unknown variable would stand in the address as it is written."""
    known = variables(uid) | {"__url_time_range", "__from", "__to", "__value", "__data"}
    for panel in load(uid)["panels"]:
        for link in panel.get("links", ()):
            assert set(re.findall(r"\$\{(\w+)", link["url"])) <= known, panel["title"]


@BOARD
def test_every_dashboard_can_be_pointed_elsewhere(uid: str) -> None:
    """$datasource, $environment and $instance on each; the panels ask the chosen source."""
    loaded = load(uid)
    chosen = {each["name"]: each for each in loaded["templating"]["list"]}
    assert {"datasource", "environment", "instance"} <= chosen.keys()
    assert all(each["multi"] and each["includeAll"] for name, each in chosen.items() if name in queries.VARIABLES)
    for panel in loaded["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] in {"${datasource}", "${tempo}"}


def test_the_voice_dashboard_takes_several_voices() -> None:
    """$voice is multi and has All."""
    (voice,) = (each for each in load("vibevoice-voice")["templating"]["list"] if each["name"] == "voice")
    assert voice["multi"]
    assert voice["includeAll"]


@BOARD
def test_panels_fill_their_rows_and_never_overlap(uid: str) -> None:
    """24 columns, no hole at a row's end, no panel over another; ids are unique."""
    loaded = load(uid)["panels"]
    assert len({panel["id"] for panel in loaded}) == len(loaded)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"], p["gridPos"]["w"], p["gridPos"]["h"]) for p in loaded]
    for (x, y, w, h), (u, v, b, t) in combinations(places, 2):
        assert x + w <= u or u + b <= x or y + h <= v or v + t <= y
    area = sum(w * h for _, _, w, h in places)
    assert area == 24 * max(y + h for _, y, _, h in places)


@pytest.mark.parametrize(("uid", "panel"), PANELS)
def test_latency_panels_show_single_requests(uid: str, panel: Panel) -> None:
    """A picture of latency over time has exemplars, so that a bad point leads to a trace; a mean has none to give,
    and on a share's axis a request's seconds have no place.
    """
    over_time = panel.type_val in {"timeseries", "heatmap"} and any(
        "histogram_quantile" in query.expr or "_bucket" in query.expr for query in promql(panel)
    )
    shares = panel.field_config.defaults.unit == "percentunit"
    if over_time and not shares and panel.title != "First audio of all voices":
        assert any(query.exemplar for query in promql(panel))


def test_thresholds_are_the_objectives() -> None:
    """The dashed line that people see is the number that alerts fire at."""
    limits = {
        step["value"]
        for uid in TITLES
        for panel in load(uid)["panels"]
        if panel["title"] in {"First-audio latency", "P95 first audio", "P95 first audio by voice"}
        for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    }
    assert limits == {None, semconv.SLO_FIRST_AUDIO_SECONDS}
    assert thresholds.SUCCESS.budget == pytest.approx(0.01)
    assert thresholds.FIRST_AUDIO.budget == pytest.approx(0.05)


#: Attributes that every request's span carries (tests/stack/test_trace_queries.py looks at a real service's).
CARRIED = {"resource.service.name", "resource.service.instance.id", f"span.{semconv.VOICE.key}"}


def conditions(traceql: str) -> Iterator[list[str]]:
    """The alternatives of each condition of every spanset filter."""
    for inside in re.findall(r"\{ (.+?) \}(?= [|>]|$)", traceql):
        for condition in inside.split(" && "):
            yield condition.strip("()").split(" || ")


@pytest.mark.parametrize("traceql", sorted({*TRACEQL.values()}))
def test_traceql_is_well_formed(traceql: str) -> None:
    """Spanset filters of comparisons of known attributes, and a select of known attributes."""
    known = {f"span.{a.key}" for span in semconv.SPANS for a in span.attributes} | CARRIED | {queries.ENVIRONMENT}
    intrinsic = {"name", "status", "trace:id"}
    found = [each for alternatives in conditions(traceql) for each in alternatives]
    assert len(found) > 2
    for comparison in found:
        left, operator, right = re.fullmatch(
            r'(\S+) (=|=~|>|!=) ("[^"]*"|`[^`]*`|[\d.]+|error|nil)', comparison
        ).groups()  # type: ignore[union-attr]
        assert left in known | intrinsic
        # A raw string: what Grafana escapes for a regex is no escape of a quoted string of TraceQL.
        assert (operator == "=~") is (right[0] == "`")
    chosen = re.search(r"\| select\((.+)\)$", traceql)
    assert chosen
    assert set(chosen[1].split(", ")) <= known


@pytest.mark.parametrize("traceql", sorted({*TRACEQL.values()}))
def test_traceql_asks_no_regex_of_what_may_be_absent(traceql: str) -> None:
    """An absent attribute matches no regex, ``.*`` included: it is asked for its absence too, or every request carries
    it.
    """
    for alternatives in conditions(traceql):
        for key in (each.partition(" =~ ")[0] for each in alternatives if " =~ " in each):
            assert key in CARRIED or f"{key} = nil" in alternatives, key


def test_links_lead_to_the_lists_of_requests() -> None:
    """The panel that a link names is a list of requests of that very query, on the dashboard that it names."""
    listed = {traceql: number for number, traceql in TRACEQL.items() if traceql != queries.STEPS_OF_TRACE}
    assert listed == REQUEST_PANELS
    assert {"service", "environment", "instance", "voice"} <= variables(REQUESTS_UID)


@pytest.mark.parametrize(
    ("uid", "number", "traceql"),
    [
        ("vibevoice-voice", 54, queries.SUSPECT_TRACES),
        ("vibevoice-voice", 10, queries.FAILED_TRACES),
        ("vibevoice-health", 11, queries.SLOW_TRACES),
    ],
)
def test_a_panel_leads_to_the_requests_that_it_counts(uid: str, number: int, traceql: str) -> None:
    """In the files that Grafana reads, link and list alike."""
    (panel,) = (each for each in load(uid)["panels"] if each["id"] == number)
    (address,) = (link["url"] for link in panel["links"] if link["title"].startswith("Traces"))
    shown = int(re.findall(r"viewPanel=(\d+)", address)[0])
    (listing,) = (each for each in load(REQUESTS_UID)["panels"] if each["id"] == shown)
    assert [target["query"] for target in listing["targets"]] == [traceql]


def test_every_traceql_is_on_a_dashboard() -> None:
    """One that no panel asks is found by nobody."""
    written = {value for name, value in vars(queries).items() if name.endswith("TRACES")}
    assert written <= set(TRACEQL.values())


def test_from_health_to_the_slowest_step_in_four_clicks() -> None:
    """Health's latency panel, its late requests, the slowest one's steps, the slowest of them: each link is there and
    keeps the filters.
    """
    boards = {uid: {panel["id"]: panel for panel in load(uid)["panels"]} for uid in TITLES}
    (first,) = (link["url"] for link in boards["vibevoice-health"][11]["links"] if link["title"].startswith("Traces"))
    assert first.startswith("/d/vibevoice-root-cause?viewPanel=30&")
    late = boards["vibevoice-root-cause"][30]
    assert late["transformations"][-1]["options"]["sort"] == [{"field": "First audio", "desc": True}]
    (second,) = (
        link["url"]
        for override in late["fieldConfig"]["overrides"]
        if override["matcher"]["options"] == "First audio"
        for each in override["properties"]
        if each["id"] == "links"
        for link in each["value"]
    )
    assert second.startswith("/d/vibevoice-root-cause?viewPanel=33&var-trace=${__data.fields.traceIdHidden}&")
    steps = boards["vibevoice-root-cause"][33]
    assert "${trace}" in steps["targets"][0]["query"]
    assert steps["transformations"][-1]["options"]["sort"] == [{"field": "Duration", "desc": True}]
    # The column that Grafana itself makes a link to the trace, at that span.
    assert steps["transformations"][1]["options"]["renameByName"]["Span ID"] == "Trace"


def test_a_wrong_edge_or_suffix_is_refused() -> None:
    """A share above something that is no bucket edge would be silently interpolated, a suffix that does not fit never
    found.
    """
    with pytest.raises(ValueError, match=r"has no bucket edge at 0\.47"):
        share_above(0.47, semconv.FIRST_AUDIO, "5m", "")
    with pytest.raises(ValueError, match="suffix '_count' does not fit"):
        series(semconv.REQUESTS, suffix="_count")
    with pytest.raises(ValueError, match="suffix '' does not fit"):
        series(semconv.FIRST_AUDIO)


def test_bound_replaces_every_variable() -> None:
    """What the stack tests and the pictures run is the panel's own query with values in the variables' place."""
    assert (
        queries.bound('a{v=~"$voice", s=~"${service:pipe}"}[$__rate_interval]', {"voice": "x"})
        == 'a{v=~"x", s=~".*"}[1m]'
    )
    assert queries.bound('label_replace(a, "x", "0$1", "y", "(.)")').count("$1") == 1  # PromQL's own
    for _, _, _, query in asked():
        assert "$" not in queries.bound(query.expr).replace('"$1"', "").replace('"0$1"', "")


def test_panels_have_queries() -> None:
    """Every panel asks Prometheus, or Tempo for one list of traces."""
    for board in BOARDS:
        for panel in panels(board):
            assert promql(panel) or len(panel.targets) == 1
            assert panel.datasource.type_val == ("prometheus" if promql(panel) else "tempo")
