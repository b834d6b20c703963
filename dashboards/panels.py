"""What our panels share, set on Grafana's own builders (grafana-foundation-sdk).

A function for each kind: ``stat``, ``series``, ``heat``, ``table``, ``traces``. What all panels of a kind share (axis
from zero, smallest scale of a unit, width of a stack's lines) is decided there, once; what a panel alone has is passed
on by the builder's own names: ``min``, ``max``, ``decimals``, ``time_from``, ``mappings``. Queries come from
queries.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from grafana_foundation_sdk.builders import common as look
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import heatmap, prometheus, tempo, timeseries
from grafana_foundation_sdk.builders import stat as figure
from grafana_foundation_sdk.builders import table as grid
from grafana_foundation_sdk.models import common as choice
from grafana_foundation_sdk.models.common import GraphThresholdsStyleMode as LineMode
from grafana_foundation_sdk.models.common import StackingMode
from grafana_foundation_sdk.models.dashboard import DashboardFieldConfigSourceOverrides as Override
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColor,
    FieldColorModeId,
    MatcherConfig,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode
from grafana_foundation_sdk.models.tempo import SearchTableType

from dashboards.alerts import RUNBOOKS
from dashboards.queries import FAILED_TRACES, SLOW_TRACES, SUSPECT_TRACES, TRACES

GREEN, YELLOW, RED, BLUE, PURPLE = "green", "orange", "red", "blue", "purple"
#: Grafana's names of units.
Unit = Literal["short", "s", "percentunit", "reqps", "bytes", "joule", "none"]
#: A panel without any event shows an axis to here at least, not to a hundred of what never happened.
SMALLEST_TOP: Final[Mapping[Unit, float]] = {"short": 1, "s": 0.1, "percentunit": 0.05, "reqps": 0.1, "none": 1}
PROMETHEUS: Final = DataSourceRef("prometheus", "${datasource}")
TEMPO: Final = DataSourceRef("tempo", "${tempo}")
#: Where requests are listed: the dashboard, and the panel of each query (a test holds that they are there).
REQUESTS_UID: Final = "vibevoice-root-cause"
REQUEST_PANELS: Final = {SLOW_TRACES: 30, FAILED_TRACES: 31, TRACES: 32, SUSPECT_TRACES: 34}
IDLE: Final = "No requests in this time"


# ----------------------------------------------------------------------------------------------------- parts of a panel
def query(expression: str, legend: str = "__auto", *, exemplars: bool = False) -> prometheus.Dataquery:
    """One PromQL query over the time shown.

    Args:
        expression: PromQL with Grafana's variables.
        legend: Grafana's template of a series' name.
        exemplars: draw a dot for each request that Prometheus kept a trace id of.
    """
    asked = prometheus.Dataquery().datasource(PROMETHEUS).editor_mode(QueryEditorMode.CODE).range()
    return asked.expr(expression).legend_format(legend).exemplar(exemplars)


def levels(base: str, *steps: tuple[float, str]) -> build.ThresholdsConfig:
    """Colours from the bottom up: below the first limit ``base``, from each limit on its colour."""
    rest = (Threshold(value, colour) for value, colour in steps)
    return build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps([Threshold(color=base), *rest])


_DASHED: Final = {
    "custom.stacking": {"mode": "none", "group": "B"},
    "custom.fillOpacity": 0,
    "custom.lineWidth": 2,
    "custom.lineStyle": {"fill": "dash", "dash": [8, 6]},
}


def only(
    which: str,
    *,
    by: Literal["byName", "byRegexp", "byType"] = "byName",
    unit: str | None = None,
    colour: str = "",
    thresholds: build.ThresholdsConfig | None = None,
    cells: bool = False,
    decimals: int | None = None,
    top: float | None = None,
    right: bool = False,
    links: Mapping[str, str] | None = None,
    width: int | None = None,
    empty: str | None = None,
    dashed: bool = False,
) -> Override:
    """What holds for some fields of a panel alone.

    Args:
        which: the fields' name, a pattern of it, or their type (string, number, time), as ``by`` says.
        by: how the fields are chosen.
        unit: in place of the panel's; ``string`` shows text as it is, for a panel's unit also formats digits in text.
        colour: a fixed one.
        thresholds: in place of the panel's.
        cells: colour the table's cells by the thresholds.
        decimals: digits after the point.
        top: the axis' end.
        right: on an axis of its own at the right.
        links: title -> address, of each cell.
        width: of the column in pixels.
        empty: text where there is no value.
        dashed: a dashed line outside of any stack.
    """
    chosen = {
        "unit": unit,
        "color": FieldColor(FieldColorModeId.FIXED, colour) if colour else None,
        "thresholds": thresholds.build() if thresholds else None,
        "custom.cellOptions": {"type": "color-background", "mode": "basic"} if cells else None,
        "decimals": decimals,
        "max": top,
        "custom.axisPlacement": "right" if right else None,
        "links": [{"title": title, "url": url} for title, url in links.items()] if links else None,
        "custom.width": width,
        "noValue": empty,
        **(_DASHED if dashed else {}),
    }
    properties = [DynamicConfigValue(key, value) for key, value in chosen.items() if value is not None]
    return Override(MatcherConfig(by, which), properties)


def colours(by_name: Mapping[str, str]) -> tuple[Override, ...]:
    """Overrides that give series of these names these colours."""
    return tuple(only(name, colour=colour) for name, colour in by_name.items())


def organize(names: Mapping[str, str]) -> DataTransformerConfig:
    """Columns in this order: name -> the title that it is shown under, empty where the column is hidden."""
    options = {
        "excludeByName": {name: True for name, title in names.items() if not title},
        "includeByName": {},
        "indexByName": {name: index for index, name in enumerate(names)},
        "renameByName": {name: title for name, title in names.items() if title and name != title},
    }
    return DataTransformerConfig("organize", options=options)


def sort_by(name: str, *, largest_first: bool = True) -> DataTransformerConfig:
    """Rows by the numbers of a column."""
    return DataTransformerConfig("sortBy", options={"fields": {}, "sort": [{"field": name, "desc": largest_first}]})


def kept(variables: Iterable[str]) -> str:
    """The part of a link's address that keeps the data sources, these variables and the time."""
    return "&".join(f"${{{name}:queryparam}}" for name in ("datasource", "tempo", *variables)) + "&${__url_time_range}"


# ------------------------------------------------------------------------------------------------------- kinds of panel
def _panel(
    panel: Any,
    number: int,
    title: str,
    *,
    targets: list[Any],
    description: str,
    runbook: str,
    width: int,
    height: int,
    unit: Unit = "short",
    thresholds: build.ThresholdsConfig | None = None,
    requests: str = TRACES,
    empty: str = IDLE,
    overrides: Iterable[Override] = (),
    colour: FieldColorModeId = FieldColorModeId.THRESHOLDS,
    source: DataSourceRef = PROMETHEUS,
    **more: Any,
) -> Any:
    """Sets what panels of every kind have, and returns the builder.

    Args:
        panel: the builder of the kind.
        number: stays for ever: links and screenshots name it.
        title: what is seen.
        targets: the queries.
        description: how to read it.
        runbook: the alert whose page tells what to do.
        width: in columns of 24.
        height: in Grafana's units of 30 px.
        unit: of all fields.
        thresholds: colours of values.
        requests: the list of requests that the panel links to.
        empty: why there may be nothing to see on a healthy system; shown in the panel's place.
        overrides: what holds for some fields alone.
        colour: by thresholds, or by series.
        source: the data source.
        more: the builder's own, by its names.
    """
    panel.id(number).title(title).description(description).datasource(source).span(width).height(height)
    panel.unit(unit).thresholds(thresholds or levels(GREEN)).color_scheme(build.FieldColor().mode(colour))
    panel.targets([each.ref_id(chr(ord("A") + index)) for index, each in enumerate(targets)])
    listed = f"/d/{REQUESTS_UID}?viewPanel={REQUEST_PANELS[requests]}&"
    panel.links([link("Traces with the same filters", listed), link("Runbook", f"{RUNBOOKS}/{runbook}.md")])
    for each in overrides:
        panel.with_override(each.matcher, each.properties)
    for name, value in ({"no_value": empty or None} | more).items():
        if value is not None:
            getattr(panel, name)(value)
    return panel


def link(title: str, url: str) -> build.DashboardLink:
    return build.DashboardLink(title).url(url).target_blank(True)


def stat(
    number: int, title: str, asked: str, *beside: prometheus.Dataquery, width: int = 4, height: int = 4, **more: Any
) -> figure.Panel:
    """One figure, coloured by its thresholds, and what else must be known to read it."""
    panel = figure.Panel().color_mode(choice.BigValueColorMode.BACKGROUND).graph_mode(choice.BigValueGraphMode.AREA)
    panel.reduce_options(look.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
    targets = [query(asked, "left" if beside else title), *beside]
    return _panel(panel, number, title, targets=targets, width=width, height=height, **more)


def series(
    number: int,
    title: str,
    *queries: prometheus.Dataquery,
    width: int = 8,
    height: int = 8,
    unit: Unit = "short",
    stacked: bool = False,
    line: bool = True,
    **more: Any,
) -> timeseries.Panel:
    """Curves over time from zero up; ``line``: the thresholds are drawn as dashed lines."""
    panel = timeseries.Panel().draw_style(choice.GraphDrawStyle.LINE).show_points(choice.VisibilityMode.AUTO)
    # A band of height zero would show as its line, in a colour that is not there.
    panel.line_width(0 if stacked else 2).fill_opacity(70 if stacked else 8).point_size(4).span_nulls(False)
    panel.stacking(look.StackingConfig().group("A").mode(StackingMode.NORMAL if stacked else StackingMode.NONE))
    drawn = LineMode.DASHED if line and "thresholds" in more else LineMode.OFF
    panel.thresholds_style(look.GraphThresholdsStyleConfig().mode(drawn))
    legend = look.VizLegendOptions().display_mode(choice.LegendDisplayMode.LIST).show_legend(True).calcs([])
    panel.legend(legend.placement(choice.LegendPlacement.BOTTOM))
    panel.tooltip(look.VizTooltipOptions().mode(choice.TooltipDisplayMode.MULTI).sort(choice.SortOrder.DESCENDING))
    shared = {"min": 0.0, "axis_soft_max": SMALLEST_TOP.get(unit), "colour": FieldColorModeId.PALETTE_CLASSIC}
    chosen: dict[str, Any] = {"targets": list(queries), "width": width, "height": height, "unit": unit} | shared | more
    return _panel(panel, number, title, **chosen)


def heat(
    number: int, title: str, asked: str, *, exemplars: bool = False, width: int = 12, **more: Any
) -> heatmap.Panel:
    """Observations by bucket and time."""
    scale = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Turbo").steps(64).exponent(0.5)
    panel = heatmap.Panel().calculate(False).cell_gap(1).show_value(choice.VisibilityMode.NEVER).show_legend()
    panel.color(scale.fill("dark-orange").scale(HeatmapColorScale.EXPONENTIAL).reverse(False))
    panel.exemplars_color("rgba(255,0,255,0.9)").filter_values(heatmap.FilterValueRange().le(1e-9))
    panel.rows_frame(heatmap.RowsHeatmapOptions().layout(choice.HeatmapCellLayout.AUTO))
    panel.mode(choice.TooltipDisplayMode.SINGLE).show_y_histogram().show_color_scale(False)
    panel.y_axis(heatmap.YAxisConfig().axis_placement(choice.AxisPlacement.LEFT).reverse(False).unit("s"))
    target = query(asked, "{{le}}", exemplars=exemplars).format(PromQueryFormat.HEATMAP)
    colour = FieldColorModeId.PALETTE_CLASSIC
    return _panel(panel, number, title, targets=[target], width=width, height=8, colour=colour, **more)


def table(
    number: int, title: str, *expressions: str, width: int, overrides: Iterable[Override] = (), **more: Any
) -> grid.Panel:
    """Rows of figures, each of the time shown as a whole. Text is shown as it is, whatever the unit of the numbers."""
    overrides = (only("string", by="byType", unit="string"), only("number", by="byType", empty="-"), *overrides)
    targets = [query(each).instant().format(PromQueryFormat.TABLE) for each in expressions]
    return _panel(_grid(), number, title, targets=targets, width=width, height=8, overrides=overrides, **more)


def traces(
    number: int, title: str, traceql: str, *, spans: int = 1, overrides: Iterable[Override] = (), **more: Any
) -> grid.Panel:
    """Rows of spans, each a link to its trace; ``spans``: rows of each trace at most."""
    asked = tempo.TempoQuery().datasource(TEMPO).query_type("traceql").query(traceql).limit(20).spss(spans).filters([])
    targets = [asked.table_type(SearchTableType.SPANS)]
    more |= {
        "overrides": (only("string", by="byType", unit="string"), *overrides),
        "source": TEMPO,
        "requests": traceql if traceql in REQUEST_PANELS else TRACES,
    }
    return _panel(_grid(), number, title, targets=targets, width=24, height=9, **more)


def _grid() -> grid.Panel:
    return grid.Panel().show_header(True).cell_height(choice.TableCellHeight.SM)
