"""A dashboard around its panels, on Grafana's own builders: rows, variables, marks of events, links to the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    Panel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import Dataquery as Query

from dashboards.alerts import RUNBOOKS
from dashboards.panels import BLUE, PROMETHEUS, RED, YELLOW, kept, link
from dashboards.promql import joined
from dashboards.queries import CHANGES, VARIABLES
from dashboards.thresholds import Severity

#: The dashboards in the order in which an operator looks.
TITLES: Final = {
    "vibevoice-health": "VibeVoice / Health",
    "vibevoice-voice": "VibeVoice / Voice",
    "vibevoice-root-cause": "VibeVoice / Root cause",
}
VOICE_UID: Final = "vibevoice-voice"

Row = tuple[str, tuple[Builder[Panel], ...]]
_Made = TypeVar("_Made", bound=Builder[Any])


def _with(builder: _Made, **fields: str) -> _Made:
    """Adds fields that Grafana itself writes and reads, and its published types leave out."""
    made = builder.build()
    plain = made.to_json
    made.to_json = lambda: plain() | fields
    return builder


def row(title: str, *panels: Builder[Panel]) -> Row:
    """Panels side by side under a title, in as many lines as they need."""
    return title, panels


def board(
    uid: str, description: str, *rows: Row, variables: Sequence[str] = ("service", "environment", "instance")
) -> Dashboard:
    """One dashboard: rows of panels, each row a title and what stands in it from left to right."""
    made = build.Dashboard(TITLES[uid]).uid(uid).description(description).tags(["vibevoice"]).version(1).editable()
    made.tooltip(DashboardCursorSync.CROSSHAIR).refresh("30s").time("now-1h", "now").timezone("browser").preload(False)
    # Pages alone at first: red areas that lie on one another hide the curves.
    made.annotation(_firing("critical", "Pages", RED).enable(True))
    made.annotation(_firing("warning", "Tickets", YELLOW).enable(False))
    made.annotation(_mark("Changes", BLUE, CHANGES, "{{changed}}", "{{service}}"))
    sources = (_source("datasource", "prometheus", "Metrics"), _source("tempo", "tempo", "Traces"))
    made.variables([*sources, *map(_variable, variables)])
    for other, title in TITLES.items():
        if other != uid:
            there = build.DashboardLink(title).url(f"/d/{other}").icon("dashboard")
            made.link(there.include_vars(True).keep_time(True))
    made.link(link("Runbooks", RUNBOOKS).icon("doc"))
    filters = kept(name for name in variables if name in VARIABLES)
    for number, (title, panels) in enumerate(rows):
        if title:
            # Row ids are far above the panels' own.
            made.with_row(build.Row(title).id(1000 + number))
        for panel in panels:
            _keep(panel.build(), uid, filters)
            made.with_panel(panel)
    return made.build()


def _keep(panel: Panel, uid: str, filters: str) -> None:
    """Lets the panel's links keep the dashboard's filters, and adds the one to the dashboard of voices."""
    for each in panel.links:
        if each.url.startswith("/d/"):
            each.url += filters
    if uid != VOICE_UID:
        panel.links.insert(0, link("By voice", f"/d/{VOICE_UID}?{filters}").build())


def _source(name: str, kind: str, label: str) -> build.DatasourceVariable:
    return build.DatasourceVariable(name).label(label).type(kind)


def _variable(name: str) -> build.QueryVariable | build.TextBoxVariable:
    if name not in VARIABLES:
        return build.TextBoxVariable(name).label(name.capitalize()).default_value("")
    asked = {"query": VARIABLES[name], "refId": f"variable-{name}", "qryType": 5}
    made = build.QueryVariable(name).label(name.capitalize()).datasource(PROMETHEUS).query(asked).multi(True)
    made.current(VariableOption(True, ["All"], ["$__all"])).include_all(True).all_value(".*")
    made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    return _with(made, definition=VARIABLES[name])


def _firing(severity: Severity, name: str, colour: str) -> build.AnnotationQuery:
    """Firing alerts of the chosen services; those of no service, as of a Collector, with all of them."""
    where = f'service="vibevoice", alertstate="firing", severity="{severity}"'
    expression = f'ALERTS{{{where}, service_name=~"$service", environment=~"$environment"}}'
    # Of a label that a series lacks Grafana writes the name: both texts are labels that each series has.
    said = joined(joined(expression, "title", "alertname", "service_name"), "words", "severity", "environment", "voice")
    return _mark(name, colour, said, "{{title}}", "{{words}}")


def _mark(name: str, colour: str, expression: str, title: str, words: str) -> build.AnnotationQuery:
    """An annotation for each series and each time that it is there."""
    mark = build.AnnotationQuery().name(name).datasource(PROMETHEUS).icon_color(colour).expr(expression)
    return _with(mark, titleFormat=title, textFormat=words)


def text(made: Dashboard) -> str:
    """The dashboard's JSON."""
    return JSONEncoder(indent=2, ensure_ascii=False).encode(made) + "\n"


# ---------------------------------------------------------------------------------------------- what stands on a
# dashboard
def panels(made: Dashboard) -> list[Panel]:
    """The dashboard's panels, without its rows' titles."""
    return [each for each in made.panels if isinstance(each, Panel)]


def queries(panel: Panel) -> list[Query]:
    """The panel's PromQL; none where it lists traces."""
    return [each for each in panel.targets if isinstance(each, Query)]
