"""``python -m dashboards.pictures``: each dashboard as its real data looks, drawn by matplotlib, and the table of
faults and panels.

Not Grafana's own picture: the panels' own queries are run on a real Prometheus that the real service filled
(dashboards/scenario.py).
"""

from __future__ import annotations

import math
import re
import sys
import tempfile
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from dashboards.boards import BOARDS
from dashboards.dashboard import Dashboard, Panel, Query, panels, queries
from dashboards.faults import table
from dashboards.panels import GREEN
from dashboards.queries import VOICES, bound
from dashboards.scenario import FAULTS, Scenario, play, running
from tools.stack.prometheus import Prometheus

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.gridspec import GridSpec

DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
LABEL: Final = (
    "Drawn with matplotlib from the panels' queries on a real Prometheus filled by the demo service; this is not "
    "Grafana."
)
INTERVAL: Final = "10s"
ROW_INCHES: Final = 0.42
COLOURS: Final = {
    GREEN: "#299c46",
    "orange": "#e0872f",
    "red": "#d44a3a",
    "blue": "#3274d9",
    "purple": "#8f3bb8",
    "yellow": "#f2cc0c",
    "light-blue": "#8ab8ff",
    "dark-green": "#19730e",
    "dark-purple": "#52257a",
    "text": "#555555",
}
SCALES: Final = {
    "percentunit": (100.0, "%"),
    "s": (1000.0, "ms"),
    "bytes": (1e-9, "GB"),
    "reqps": (1.0, "/s"),
    "short": (1.0, ""),
}


def _range(
    prometheus: Prometheus, query: Query, start: float, end: float
) -> list[tuple[dict[str, str], list[float], list[float]]]:
    """Labels, seconds since ``start`` and values of each series."""
    data = prometheus.get(
        "query_range",
        query=bound(query.expr, interval=INTERVAL, window=INTERVAL),
        start=str(start),
        end=str(end),
        step="1",
    )
    return [
        (r["metric"], [float(t) - start for t, _ in r["values"]], [float(v) for _, v in r["values"]])
        for r in data["result"]
    ]


def _scale(panel: Panel) -> tuple[float, str]:
    """What a value is multiplied by, and its unit then."""
    unit: str = panel.field_config.defaults.unit
    return SCALES.get(unit, (1.0, unit))


def _legend(query: Query, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), query.legend_format)


def _bands(axes: Axes, scenario: Scenario, start: float, named: bool) -> None:
    for phase in scenario.phases:
        if phase.name in FAULTS:
            shade = 0.2 if FAULTS.index(phase.name) % 2 else 0.1
            axes.axvspan(phase.start - start, phase.end - start, color="#888888", alpha=shade, lw=0)
            if named:
                middle = (phase.start + phase.end) / 2 - start
                axes.text(
                    middle,
                    0.98,
                    phase.name,
                    transform=axes.get_xaxis_transform(),
                    rotation=90,
                    va="top",
                    ha="center",
                    fontsize=5.5,
                )


def _nothing(axes: Axes, panel: Panel) -> None:
    text = panel.field_config.defaults.no_value or "no data"
    if not queries(panel):
        asked = bound(panel.targets[0].query).partition(" | ")[0].split(" && ")
        text = "The traces come from Tempo, which did not run here:\n\n" + "\n&& ".join(asked)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=6, color="#666666", transform=axes.transAxes)
    axes.set_axis_off()


def _lines(axes: Axes, panel: Panel, scenario: Scenario, start: float, end: float) -> None:
    scale, unit, defaults = *_scale(panel), panel.field_config.defaults
    found = [(q, *each) for q in queries(panel) for each in _range(scenario.prometheus, q, start, end)]
    if not found:
        _nothing(axes, panel)
        return
    fixed = {
        override.matcher.options: COLOURS[each.value.fixed_color]
        for override in panel.field_config.overrides or ()
        for each in override.properties
        if each.id_val == "color"
    }
    stacked = defaults.custom.stacking.mode == "normal"
    stack = [each for each in found if stacked and each[0] is queries(panel)[0]]
    if stack:
        grid = list(range(round(end - start) + 1))
        rows = [[dict(zip(map(round, x), y, strict=True)).get(at, 0.0) * scale for at in grid] for _, _, x, y in stack]
        rows = [[0.0 if math.isnan(v) else v for v in row] for row in rows]
        names = [_legend(query, labels) for query, labels, _, _ in stack]
        colours = [fixed.get(name, f"C{index}") for index, name in enumerate(names)]
        axes.stackplot(grid, rows, labels=names, colors=colours, alpha=0.75, lw=0)
    for query, labels, x, y in found:
        if (query, labels, x, y) not in stack:
            name = _legend(query, labels)
            axes.plot(x, [v * scale for v in y], marker=".", ms=2, lw=1.1, label=name, color=fixed.get(name))
    if defaults.custom.thresholds_style.mode == "dashed":
        for step in defaults.thresholds.steps[1:]:
            axes.axhline(step.value * scale, color=COLOURS[step.color], ls="--", lw=0.8)
    _bands(axes, scenario, start, named=panel.grid_pos.w >= 12)
    axes.set_xlim(0, end - start)
    axes.set_ylabel(unit, fontsize=6)
    if len(found) <= 12:
        axes.legend(fontsize=5, loc="upper left", ncols=2, framealpha=0.6)


def _heat(axes: Axes, panel: Panel, scenario: Scenario, start: float, end: float) -> None:
    found = _range(scenario.prometheus, queries(panel)[0], start, end)
    edges = sorted((float(labels["le"]), dict(zip(map(round, x), y, strict=True))) for labels, x, y in found)
    if not edges:
        _nothing(axes, panel)
        return
    grid = range(round(end - start) + 1)
    below = [dict.fromkeys(grid, 0.0)] + [{at: values.get(at, 0.0) for at in grid} for _, values in edges]
    cells = [[max(0.0, high[at] - low[at]) for at in grid] for low, high in pairwise(below)]
    cells = [[v if v > 0 else math.nan for v in row] for row in cells]
    axes.imshow(
        cells,
        aspect="auto",
        origin="lower",
        cmap="turbo",
        extent=(0.0, end - start, 0.0, float(len(edges))),
        interpolation="nearest",
    )
    axes.set_yticks([i + 1 for i in range(len(edges))][::3], [f"{edge:g} s" for edge, _ in edges][::3], fontsize=5)
    _bands(axes, scenario, start, named=True)


def _stat(axes: Axes, panel: Panel, scenario: Scenario, start: float, end: float) -> None:
    query = queries(panel)[0]
    text = bound(query.expr, interval=INTERVAL, window=f"{round(end - start)}s")
    found = scenario.prometheus.get("query", query=text, time=str(end))["result"]
    numbers = [float(item["value"][1]) for item in found]
    if not numbers or math.isnan(numbers[0]):
        _nothing(axes, panel)
        return
    scale, unit = _scale(panel)
    base, *steps = panel.field_config.defaults.thresholds.steps
    colour = [base, *(step for step in steps if numbers[0] >= step.value)][-1].color
    axes.set_axis_off()
    axes.add_patch(plt.Rectangle((0, 0), 1, 1, transform=axes.transAxes, color=COLOURS[colour]))
    shown = f"{numbers[0] * scale:.4g} {unit}".strip()
    axes.text(
        0.5, 0.5, shown, ha="center", va="center", fontsize=13, color="white", transform=axes.transAxes, weight="bold"
    )


def _rows(panel: Panel, scenario: Scenario, start: float, end: float) -> list[list[str]]:
    results = []
    for query in queries(panel):
        text = bound(query.expr, interval=INTERVAL, window=f"{round(end - start)}s")
        results.append(scenario.prometheus.get("query", query=text, time=str(end))["result"])
    scale, unit = _scale(panel)
    if len(queries(panel)) == 1:  # a matrix
        keys = (
            [key for key in results[0][0]["metric"] if key not in {"text_length_range", "aligned"}]
            if results[0]
            else []
        )
        columns = ("short", "medium", "long")
        cells = {(r["metric"][keys[0]], r["metric"]["text_length_range"]): float(r["value"][1]) for r in results[0]}
        body = [
            [
                row,
                *(
                    f"{cells[row, each] * scale:.4g} {unit}" if not math.isnan(cells.get((row, each), math.nan)) else ""
                    for each in columns
                ),
            ]
            for row in sorted({row for row, _ in cells})
        ]
        return [[keys[0] if keys else "", *columns], *body]
    by_voice: dict[str, list[str]] = {}
    for index, result in enumerate(results):
        for item in result:
            number = float(item["value"][1])
            row = by_voice.setdefault(item["metric"].get("voice", ""), [""] * len(results))
            row[index] = "" if math.isnan(number) else f"{number:.3g}"
    used = {voice: row for voice, row in by_voice.items() if row[0] not in {"", "0"}}
    return [
        ["voice", *VOICES],
        *([voice, *row] for voice, row in sorted(used.items(), key=lambda item: -float(item[1][1] or 0))),
    ]


def _table(axes: Axes, panel: Panel, scenario: Scenario, start: float, end: float) -> None:
    rows = _rows(panel, scenario, start, end)
    if len(rows) == 1:
        _nothing(axes, panel)
        return
    axes.set_axis_off()
    drawn = axes.table(cellText=rows[1:], colLabels=rows[0], loc="upper center", cellLoc="center")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(6)


DRAW: Final[dict[str, Any]] = {"timeseries": _lines, "heatmap": _heat, "stat": _stat, "table": _table}


def draw(board: Dashboard, scenario: Scenario, file: Path) -> None:
    """One picture of a dashboard over the whole scenario."""
    start, end = scenario.phases[0].start, scenario.phases[-1].end
    lines = [list(line) for _, line in groupby(panels(board), lambda panel: panel.grid_pos.y)]
    heights = [line[0].grid_pos.h for line in lines]
    figure = plt.figure(figsize=(15, sum(heights) * ROW_INCHES), dpi=90)
    grid = GridSpec(
        len(lines),
        24,
        figure=figure,
        height_ratios=heights,
        hspace=0.45,
        wspace=2.2,
        top=1 - 0.9 / (sum(heights) * ROW_INCHES),
        bottom=0.02,
        left=0.035,
        right=0.985,
    )
    for number, line in enumerate(lines):
        for panel in line:
            axes = figure.add_subplot(grid[number, panel.grid_pos.x : panel.grid_pos.x + panel.grid_pos.w])
            axes.set_title(panel.title, fontsize=7.5, loc="left", weight="bold")
            axes.tick_params(labelsize=5.5)
            if panel.type_val == "timeseries":
                axes.grid(alpha=0.25, lw=0.5)
            if queries(panel):
                DRAW[panel.type_val](axes, panel, scenario, start, end)
            else:
                _nothing(axes, panel)
    figure.suptitle(
        f"{board.title}\n{LABEL}\nGrey: a fault each. Seconds since the start. GPU memory is a fake card's.",
        fontsize=8,
        y=0.998,
    )
    figure.savefig(file)
    plt.close(figure)


def faults_table(scenario: Scenario) -> str:
    """Markdown: how each fault moved each panel."""
    rows = table(scenario.prometheus, scenario.healthy, [scenario.phase(fault) for fault in FAULTS])
    marks = {"up": "▲", "down": "▼", "up, down": "▲▼", "": "·"}
    head = ["dashboard", "panel", *FAULTS]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join([*row[:2], *(marks[each] for each in row[2:])]) + " |" for row in rows]
    return "\n".join(lines)


BEGIN, END = "<!-- faults: written by `make pictures` -->", "<!-- end of faults -->"


def main() -> int:
    """Play the scenario, draw, and put the measured table into docs/dashboards.md."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as scenario:
        play(scenario)
        write(scenario)
    return 0


def write(scenario: Scenario) -> None:
    """The pictures, and the table in docs/dashboards.md, of a scenario that was played."""
    (DOCS / "images").mkdir(exist_ok=True)
    for board in BOARDS:
        draw(board, scenario, DOCS / "images" / f"{board.uid.replace('vibevoice', 'dashboard')}.png")
    page = DOCS / "dashboards.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{faults_table(scenario)}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    sys.exit(main())
