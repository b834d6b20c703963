"""The shapes of a dashboard: queries, limits, panels, boards. What Grafana makes of them stands in grafana.py.

A board is written with ``row`` and one function for each kind of panel: ``stat``, ``series``, ``heat``, ``table``, ``traces``.
What all panels of a kind share (axis from zero, smallest scale of a unit, width of a stack's lines) is decided there, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dashboards.queries import TRACES

Kind = Literal["timeseries", "stat", "table", "heatmap", "traces"]
Unit = Literal["short", "s", "percentunit", "reqps", "bytes", "joule", "none"]
WIDTH: Final = 24
GREEN, YELLOW, RED, BLUE, PURPLE = "green", "orange", "red", "blue", "purple"
#: A panel without any event shows an axis to here at least, not to a hundred of what never happened.
SMALLEST_TOP: Final[Mapping[Unit, float]] = {"short": 1, "s": 0.1, "percentunit": 0.05, "reqps": 0.1, "none": 1}


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL query.

    Args:
        expression: PromQL with Grafana's variables.
        legend: Grafana's template of a series' name.
        exemplars: draw a dot for each request that Prometheus kept a trace id of.
        instant: ask for the end of the time shown alone.
    """

    expression: str
    legend: str = ""
    exemplars: bool = False
    instant: bool = False


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Colours from the bottom up: below the first limit ``base``, from each limit on its colour."""

    base: str = GREEN
    steps: tuple[tuple[float, str], ...] = ()
    line: bool = False

    def json(self) -> dict[str, Any]:
        rest = [{"color": colour, "value": limit} for limit, colour in self.steps]
        return {"mode": "absolute", "steps": [{"color": self.base, "value": None}, *rest]}


@dataclass(frozen=True, slots=True)
class Override:
    """What holds for some fields of a panel alone: ``properties`` are Grafana's, by their paths."""

    by: Literal["byName", "byRegexp", "byType"]
    which: str
    properties: Mapping[str, Any]

    @property
    def colour(self) -> str | None:
        """The fixed colour that it gives, if any."""
        chosen = self.properties.get("color")
        return chosen["fixedColor"] if chosen else None


def only(
    name: str = "",
    *,
    pattern: str = "",
    type: str = "",  # noqa: A002 - Grafana's word
    unit: str | None = None,
    colour: str | None = None,
    limits: Thresholds | None = None,
    cells: bool = False,
    decimals: int | None = None,
    top: float | None = None,
    right: bool = False,
    links: tuple[tuple[str, str], ...] = (),
    width: int | None = None,
    hidden: bool = False,
    empty: str | None = None,
    dashed: bool = False,
) -> Override:
    """An override of some fields.

    Args:
        name: the fields with this name; or
        pattern: those whose name matches it; or
        type: those of this type: string, number, time.
        unit: in place of the panel's; ``string`` shows text as it is, for a panel's unit also formats digits in text.
        colour: a fixed one.
        limits: thresholds.
        cells: colour the table's cells by the thresholds.
        decimals: digits after the point.
        top: the axis' end.
        right: on an axis of its own at the right.
        links: (title, address) of each cell.
        width: of the column in pixels.
        hidden: no column.
        empty: text where there is no value.
        dashed: a dashed line outside of any stack.
    """
    found: dict[str, Any] = {}
    if unit is not None:
        found["unit"] = unit
    if colour is not None:
        found["color"] = {"mode": "fixed", "fixedColor": colour}
    if limits is not None:
        found["thresholds"] = limits.json()
    if cells:
        found["custom.cellOptions"] = {"type": "color-background", "mode": "basic"}
    if decimals is not None:
        found["decimals"] = decimals
    if top is not None:
        found["max"] = top
    if right:
        found["custom.axisPlacement"] = "right"
    if links:
        found["links"] = [{"title": title, "url": url} for title, url in links]
    if width is not None:
        found["custom.width"] = width
    if hidden:
        found["custom.hidden"] = True
    if empty is not None:
        found["noValue"] = empty
    if dashed:
        found |= {
            "custom.stacking": {"mode": "none", "group": "B"},
            "custom.fillOpacity": 0,
            "custom.lineWidth": 2,
            "custom.lineStyle": {"fill": "dash", "dash": [8, 6]},
        }
    if name:
        return Override("byName", name, found)
    return Override("byRegexp", pattern, found) if pattern else Override("byType", type, found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel.

    Args:
        id: stays for ever: links and screenshots name it.
        title, description: what is seen, and how to read it.
        runbook: the alert whose page tells what to do.
        empty: why there may be nothing to see on a healthy system; shown in the panel's place.
        traceql: for ``kind`` traces, and which list of requests the panel links to.
        spans: rows of each trace at most.
        words: value -> (text, colour) that is shown in its place.
        top, bottom: ends of the axis; ``least_top`` is its end while all values are below it.
        time_from: a time of its own in place of the dashboard's.
    """

    id: int
    title: str
    description: str
    kind: Kind
    runbook: str
    queries: tuple[Query, ...] = ()
    unit: Unit = "short"
    width: int
    height: int
    thresholds: Thresholds = field(default_factory=Thresholds)
    traceql: str = TRACES
    spans: int = 1
    empty: str = ""
    stacked: bool = False
    top: float | None = None
    bottom: float | None = None
    least_top: float | None = None
    time_from: str = ""
    decimals: int | None = None
    transformations: tuple[dict[str, Any], ...] = ()
    overrides: tuple[Override, ...] = ()
    legend: bool = True
    words: Mapping[float, tuple[str, str]] = field(default_factory=dict)


def stat(number: int, title: str, query: str, *beside: Query, width: int = 4, height: int = 4, **more: Any) -> Panel:
    """One figure, coloured by its thresholds, and what else must be known to read it. ``more`` are Panel's fields."""
    queries = (Query(query, "left" if beside else title), *beside)
    return Panel(id=number, title=title, kind="stat", queries=queries, width=width, height=height, **more)


def series(
    number: int, title: str, *queries: Query, width: int = 8, height: int = 8, unit: Unit = "short", **more: Any
) -> Panel:
    """Curves over time from zero up. ``more`` are Panel's fields."""
    shared: dict[str, Any] = {"bottom": 0.0, "least_top": SMALLEST_TOP.get(unit)}
    return Panel(
        id=number,
        title=title,
        kind="timeseries",
        queries=queries,
        width=width,
        height=height,
        unit=unit,
        **shared | more,
    )


def heat(number: int, title: str, query: str, *, exemplars: bool = False, width: int = 12, **more: Any) -> Panel:
    """Observations by bucket and time."""
    return Panel(
        id=number,
        title=title,
        kind="heatmap",
        queries=(Query(query, "{{le}}", exemplars),),
        width=width,
        height=8,
        **more,
    )


def table(number: int, title: str, *expressions: str, width: int, height: int = 8, **more: Any) -> Panel:
    """Rows of figures, each of the time shown as a whole. Text is shown as it is, whatever the unit of the numbers."""
    overrides = (only(type="string", unit="string"), only(type="number", empty="-"), *more.pop("overrides", ()))
    return Panel(
        id=number,
        title=title,
        kind="table",
        queries=tuple(Query(each, instant=True) for each in expressions),
        width=width,
        height=height,
        overrides=overrides,
        **more,
    )


def traces(number: int, title: str, traceql: str, *, width: int = 24, height: int = 9, **more: Any) -> Panel:
    """Rows of spans, each a link to its trace."""
    overrides = (only(type="string", unit="string"), *more.pop("overrides", ()))
    return Panel(
        id=number, title=title, kind="traces", traceql=traceql, width=width, height=height, overrides=overrides, **more
    )


def colours(by_name: Mapping[str, str]) -> tuple[Override, ...]:
    """Overrides that give series of these names these colours."""
    return tuple(only(name, colour=colour) for name, colour in by_name.items())


def kept(variables: Iterable[str]) -> str:
    """The part of a link's address that keeps the data sources, these variables and the time."""
    return "&".join(f"${{{name}:queryparam}}" for name in ("datasource", "tempo", *variables)) + "&${__url_time_range}"


Row = tuple[str, tuple[Panel, ...]]


def row(title: str, *panels: Panel) -> Row:
    """Panels side by side under a title, in as many lines as they need."""
    return title, panels


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard: rows of panels, each row a title and what stands in it from left to right."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[str, ...] = ("service", "environment", "instance")
    refresh: str = "30s"
    span: str = "now-1h"

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for _, panels in self.rows for panel in panels)

    def lines(self) -> Iterator[tuple[int, str, list[tuple[int, Panel]]]]:
        """What stands side by side: the row's number, its title (empty when it goes on), and each panel with its column."""
        for number, (title, panels) in enumerate(self.rows):
            label, column = title, 0
            line: list[tuple[int, Panel]] = []
            for panel in panels:
                if column + panel.width > WIDTH:
                    yield number, label, line
                    label, column, line = "", 0, []
                line.append((column, panel))
                column += panel.width
            yield number, label, line
