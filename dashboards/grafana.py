"""Grafana's dashboard JSON of the shapes in panels.py. Queries come from queries.py, what is shown where from boards/."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dashboards.alerts import RUNBOOKS
from dashboards.panels import RED, WIDTH, YELLOW, Board, Kind, Panel, Query, kept
from dashboards.queries import FAILED_TRACES, SLOW_TRACES, TRACES, VARIABLES
from dashboards.thresholds import Severity

SCHEMA_VERSION: Final = 41
PROMETHEUS: Final = {"type": "prometheus", "uid": "${datasource}"}
TEMPO: Final = {"type": "tempo", "uid": "${tempo}"}
VOICE_UID: Final = "vibevoice-voice"
#: Where requests are listed: the dashboard, and the panel of each query (a test holds that they are there).
REQUESTS_UID: Final = "vibevoice-root-cause"
REQUEST_PANELS: Final = {SLOW_TRACES: 30, FAILED_TRACES: 31, TRACES: 32}


# ------------------------------------------------------------------------------------------------------------------- links
def requests(traceql: str, variables: Iterable[str]) -> str:
    """Address of the panel that lists the requests of that query, with the same filters and time.

    A panel and no trace search: Grafana encodes a variable in a dashboard's address, whatever characters are in it, but not in a query
    within an address.
    """
    return f"/d/{REQUESTS_UID}?viewPanel={REQUEST_PANELS.get(traceql, REQUEST_PANELS[TRACES])}&{kept(variables)}"


def _links(panel: Panel, board: Board) -> list[dict[str, Any]]:
    filters = [name for name in board.variables if name in VARIABLES]
    found = [("Traces with the same filters", requests(panel.traceql, filters))]
    if board.uid != VOICE_UID:
        found.insert(0, ("By voice", f"/d/{VOICE_UID}?{kept(filters)}"))
    if panel.runbook:
        found.append(("Runbook", f"{RUNBOOKS}/{panel.runbook}.md"))
    return [{"title": title, "url": url, "targetBlank": True} for title, url in found]


# ------------------------------------------------------------------------------------------------------------------- panels
_LEGEND: Final = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
_OPTIONS: Final[Mapping[Kind, dict[str, Any]]] = {
    "timeseries": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {
        "colorMode": "background",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "table": {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": ""},
    },
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Turbo",
            "steps": 64,
            "exponent": 0.5,
            "fill": "dark-orange",
            "scale": "exponential",
            "reverse": False,
        },
        "exemplars": {"color": "rgba(255,0,255,0.9)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
    },
    "traces": {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": ""},
    },
}


def _options(panel: Panel) -> dict[str, Any]:
    options = dict(_OPTIONS[panel.kind])
    if not panel.legend:
        options["legend"] = {**_LEGEND, "showLegend": False}
    return options


def _custom(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        least = {} if panel.least_top is None else {"axisSoftMax": panel.least_top}
        return {
            **least,
            "drawStyle": "line",
            # A band of height zero would show as its line, in a colour that is not there.
            "lineWidth": 0 if panel.stacked else 2,
            "fillOpacity": 70 if panel.stacked else 8,
            "showPoints": "auto",
            "pointSize": 4,
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.thresholds.line else "off"},
        }
    if panel.kind == "heatmap":
        return {"hideFrom": {"legend": False, "tooltip": False, "viz": False}, "scaleDistribution": {"type": "linear"}}
    return {}


def _mappings(panel: Panel) -> list[dict[str, Any]]:
    if not panel.words:
        return []
    words = {
        f"{value:g}": {"text": text, "color": colour, "index": index}
        for index, (value, (text, colour)) in enumerate(panel.words.items())
    }
    return [{"type": "value", "options": words}]


def _field_config(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if panel.kind in {"stat", "table", "traces"} else "palette-classic"},
        "thresholds": panel.thresholds.json(),
        "custom": _custom(panel),
        "mappings": _mappings(panel),
    }
    optional = {"min": panel.bottom, "max": panel.top, "decimals": panel.decimals, "noValue": panel.empty or None}
    defaults |= {key: value for key, value in optional.items() if value is not None}
    overrides = [
        {
            "matcher": {"id": each.by, "options": each.which},
            "properties": [{"id": key, "value": value} for key, value in each.properties.items()],
        }
        for each in panel.overrides
    ]
    return {"defaults": defaults, "overrides": overrides}


def _target(panel: Panel, index: int, query: Query) -> dict[str, Any]:
    target = {
        "refId": chr(ord("A") + index),
        "datasource": PROMETHEUS,
        "editorMode": "code",
        "expr": query.expression,
        "legendFormat": query.legend or "__auto",
        "range": not query.instant,
        "instant": query.instant,
        "exemplar": query.exemplars,
    }
    if panel.kind == "heatmap":
        target["format"] = "heatmap"
    elif panel.kind == "table":
        target["format"] = "table"
    return target


def _panel(panel: Panel, board: Board, x: int, y: int) -> dict[str, Any]:
    traces = panel.kind == "traces"
    if traces:
        targets = [
            {
                "refId": "A",
                "datasource": TEMPO,
                "queryType": "traceql",
                "query": panel.traceql,
                "limit": 20,
                "spss": panel.spans,
                "tableType": "spans",
                "filters": [],
            }
        ]
    else:
        targets = [_target(panel, index, query) for index, query in enumerate(panel.queries)]
    found: dict[str, Any] = {
        "id": panel.id,
        "type": "table" if traces else panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": TEMPO if traces else PROMETHEUS,
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "targets": targets,
        "fieldConfig": _field_config(panel),
        "options": _options(panel),
        "transformations": list(panel.transformations),
        "links": _links(panel, board),
        "transparent": False,
    }
    if panel.time_from:
        found["timeFrom"] = panel.time_from
    return found


# ---------------------------------------------------------------------------------------------------------------- dashboard
def _data_source(name: str, kind: str, label: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "datasource",
        "query": kind,
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
    }


def _variable(name: str) -> dict[str, Any]:
    if name not in VARIABLES:
        return {
            "name": name,
            "label": name.capitalize(),
            "type": "textbox",
            "query": "",
            "current": {},
            "options": [],
            "hide": 0,
            "skipUrlSync": False,
        }
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": PROMETHEUS,
        "definition": VARIABLES[name],
        "query": {"query": VARIABLES[name], "refId": f"variable-{name}", "qryType": 5},
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "options": [],
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "skipUrlSync": False,
    }


def _dashboard_link(title: str, url: str) -> dict[str, Any]:
    return {
        "title": title,
        "type": "link",
        "url": url,
        "icon": "dashboard",
        "tooltip": "",
        "tags": [],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }


def dashboard(board: Board, others: Iterable[Board]) -> str:
    """The JSON text of a dashboard."""
    panels: list[dict[str, Any]] = []
    y = 0
    for number, title, line in board.lines():
        if title:
            # Row ids are far above the panels' own.
            place = {"h": 1, "w": WIDTH, "x": 0, "y": y}
            panels.append(
                {"id": 1000 + number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
            )
            y += 1
        panels += [_panel(panel, board, x, y) for x, panel in line]
        y += max(panel.height for _, panel in line)
    content = {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["vibevoice"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": board.refresh,
        "time": {"from": board.span, "to": "now"},
        "timezone": "browser",
        "weekStart": "",
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "timepicker": {},
        "preload": False,
        # Pages alone at first: red areas that lie on one another hide the curves.
        "annotations": {
            "list": [
                _firing("critical", "Pages", RED, shown=True),
                _firing("warning", "Tickets", YELLOW, shown=False),
            ]
        },
        "templating": {
            "list": [
                _data_source("datasource", "prometheus", "Metrics"),
                _data_source("tempo", "tempo", "Traces"),
                *(_variable(name) for name in board.variables),
            ]
        },
        "links": [
            *(_dashboard_link(other.title, f"/d/{other.uid}") for other in others if other.uid != board.uid),
            {
                **_dashboard_link("Runbooks", RUNBOOKS),
                "icon": "doc",
                "includeVars": False,
                "keepTime": False,
                "targetBlank": True,
            },
        ],
        "panels": panels,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _firing(severity: Severity, name: str, colour: str, *, shown: bool) -> dict[str, Any]:
    """Firing alerts of the chosen services; those of no service, as of a Collector, with all of them."""
    where = f'service="vibevoice", alertstate="firing", severity="{severity}"'
    return {
        "name": name,
        "datasource": PROMETHEUS,
        "enable": shown,
        "hide": False,
        "iconColor": colour,
        "expr": f'ALERTS{{{where}, service_name=~"$service", environment=~"$environment"}}',
        "titleFormat": "{{alertname}} {{service_name}}",
        "textFormat": "{{severity}} {{environment}} {{voice}}",
    }
