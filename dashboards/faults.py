"""What each panel shows while a fault is there, compared with what it shows while all is well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from dashboards.boards import BOARDS
from dashboards.dashboard import Panel, Query, panels, queries
from dashboards.queries import bound
from dashboards.scenario import CORRUPT, HIGH_CFG, SLOW, Phase
from tools.stack.prometheus import Prometheus
from vibevoice_otel.semconv import Part

Direction = Literal["up", "down"]
#: A panel moved when it left the healthy values by more than three times their spread, and by more than a quarter of
#: them.
SPREADS, SHARE = 3.0, 0.25


@dataclass(frozen=True, slots=True)
class Expectation:
    """Where an operator looks first for a fault, and which way the series with these labels goes."""

    fault: str
    board: str
    panel: int
    direction: Direction
    series: Mapping[str, str] = field(default_factory=dict)
    query: int = 0

    def __str__(self) -> str:
        return f"{self.fault}-{self.board}-{self.panel}"


EXPECTED: Final = (
    Expectation("slow voice", "vibevoice-voice", 22, "up", {"voice": SLOW}),
    Expectation("slow voice", "vibevoice-root-cause", 1, "up", {"part": Part.DIFFUSION}),
    Expectation("corrupt voice", "vibevoice-health", 10, "down"),
    Expectation("corrupt voice", "vibevoice-voice", 10, "up", {"voice": CORRUPT}),
    Expectation("corrupt voice", "vibevoice-voice", 11, "up"),
    Expectation("cfg too high", "vibevoice-root-cause", 22, "up", {"cfg": f"{HIGH_CFG:.1f}"}),
    Expectation("long text", "vibevoice-root-cause", 23, "up", {"text_length_range": "long"}),
    Expectation("cold start", "vibevoice-root-cause", 11, "up"),
    Expectation("memory pressure", "vibevoice-health", 31, "up"),
    Expectation("memory pressure", "vibevoice-root-cause", 10, "up", query=1),
    Expectation("slow reader", "vibevoice-voice", 40, "up"),
    Expectation("collector restart", "vibevoice-health", 33, "down", {"job": "otel-agent"}),
)

Values = dict[tuple[tuple[str, str], ...], float]


def panel(board: str, number: int) -> Panel:
    """Raises StopIteration when there is no such panel."""
    found = next(each for each in BOARDS if each.uid == board)
    return next(each for each in panels(found) if each.id_val == number)


def look(prometheus: Prometheus, query: Query, phase: Phase, direction: Direction) -> Values:
    """What a query shows of a phase, by labels: over its whole time, or for live state the extreme in that
    direction.
    """
    text = bound(query.expr, {"instance": phase.instance}, phase.window, phase.window)
    if "[" in text:
        data = prometheus.get("query", query=text, time=f"{phase.end:.3f}")["result"]
        points = ((item["metric"], [float(item["value"][1])]) for item in data)
    else:
        data = prometheus.get("query_range", query=text, start=f"{phase.start:.3f}", end=f"{phase.end:.3f}", step="1")[
            "result"
        ]
        points = ((item["metric"], [float(value) for _, value in item["values"]]) for item in data)
    extreme = max if direction == "up" else min
    return {
        tuple(sorted(labels.items())): extreme(numbers)
        for labels, values in points
        if (numbers := [value for value in values if math.isfinite(value)])
    }


def value(shown: Values, series: Mapping[str, str], direction: Direction) -> float:
    """The extreme of the series with these labels; 0 where there is none, as on an empty panel."""
    chosen = [number for labels, number in shown.items() if series.items() <= dict(labels).items()]
    return (max if direction == "up" else min)(chosen, default=0.0)


@dataclass(frozen=True, slots=True)
class Change:
    """``before`` holds a value for each healthy round."""

    before: tuple[float, ...]
    after: float

    @property
    def mean(self) -> float:
        return sum(self.before) / len(self.before)

    @property
    def spread(self) -> float:
        return max(self.before) - min(self.before)

    def moved(self, direction: Direction) -> bool:
        distance = (self.after - self.mean) * (1 if direction == "up" else -1)
        return distance > max(SPREADS * self.spread, SHARE * abs(self.mean), 1e-9)


def change(
    prometheus: Prometheus,
    query: Query,
    healthy: Iterable[Phase],
    fault: Phase,
    direction: Direction,
    series: Mapping[str, str] | None = None,
) -> Change:
    """A query before and during a fault."""
    chosen = series or {}
    before = tuple(value(look(prometheus, query, phase, direction), chosen, direction) for phase in healthy)
    return Change(before, value(look(prometheus, query, fault, direction), chosen, direction))


def moves(prometheus: Prometheus, panel: Panel, healthy: list[Phase], fault: Phase) -> str:
    """``up``, ``down``, ``up, down`` or nothing: whether any series of a panel rose, and whether its lowest fell."""
    rose = fell = False
    for query in queries(panel):
        before = [look(prometheus, query, phase, "up") for phase in healthy]
        after = look(prometheus, query, fault, "up")
        rose |= any(
            Change(tuple(each.get(key, 0.0) for each in before), number).moved("up") for key, number in after.items()
        )
        fell |= change(prometheus, query, healthy, fault, "down").moved("down")
    return ", ".join(name for name, moved in (("up", rose), ("down", fell)) if moved)


def table(prometheus: Prometheus, healthy: list[Phase], faults: list[Phase]) -> list[list[str]]:
    """A row for each panel with metrics: dashboard, panel, then how each fault moved it."""
    return [
        [
            board.title.removeprefix("VibeVoice / "),
            each.title,
            *(moves(prometheus, each, healthy, fault) for fault in faults),
        ]
        for board in BOARDS
        for each in panels(board)
        if queries(each)
    ]
