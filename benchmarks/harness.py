"""Side-by-side measurement: contenders take turns in one process, so what the machine does meanwhile falls on all of
them alike.

Figures are CPU time unless a benchmark says otherwise: on a shared machine the wall clock measures the neighbours.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

DEFAULT_OUT = Path("out/benchmarks")
PACKAGES = ("numpy", "opentelemetry-sdk", "opentelemetry-exporter-otlp", "prometheus-client", "protobuf")


@dataclass
class Series:
    """One contender's measurements, one a round."""

    name: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return quantile(self.values, 0.25)

    @property
    def high(self) -> float:
        return quantile(self.values, 0.75)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie, interpolated."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % confidence interval of the median, whatever the distribution: the order statistics of ranks n/2 -+ 0.98
    sqrt(n).

    The normal approximation of the binomial (Conover, Practical Nonparametric Statistics, section 3.2), good from some
    ten values on.
    """
    ordered, count = sorted(values), len(values)
    reach = 0.98 * math.sqrt(count)
    low, high = math.floor(count / 2 - reach), math.ceil(count / 2 + 1 + reach)
    return ordered[max(low, 1) - 1], ordered[min(high, count) - 1]


def percent(shares: Sequence[float]) -> str:
    """The median share and its interval, in percent."""
    low, high = interval(shares)
    return f"{statistics.median(shares):+.1%} ({low:+.1%} .. {high:+.1%})"


def alternate(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, Series]:
    """Run every contender once a round, in an order that turns by one each round; the first round is warm-up and not
    kept.
    """
    series = {name: Series(name) for name in contenders}
    names = list(contenders)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            gc.disable()  # a collection belongs to no contender; objects die by reference counts here
            try:
                value = contenders[name]()
            finally:
                gc.enable()
            if turn:
                series[name].values.append(value)
    return series


def ratio(of: Series, to: Series) -> Series:
    """Round by round, so that a slow moment of the machine divides out."""
    return Series(f"{of.name} / {to.name}", [a / b for a, b in zip(of.values, to.values, strict=True) if b])


@dataclass
class Goal:
    """One promise and what was found."""

    text: str
    met: bool
    found: str


@dataclass
class Report:
    """A benchmark's table, its goals, and where it was made."""

    name: str
    title: str
    unit: str
    columns: list[str]
    rows: list[list[str | float | None]]
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        cells = [self.columns, *[[_cell(c) for c in row] for row in self.rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [self.title, ""]
        for number, row in enumerate(cells):
            lines.append(
                "  ".join(
                    c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
                ).rstrip()
            )
            if number == 0:
                lines.append("  ".join("-" * w for w in widths))
        lines.append("")
        lines += [f"{'met ' if goal.met else 'NOT MET'} {goal.text}: {goal.found}" for goal in self.goals]
        lines += self.notes
        return "\n".join(lines).rstrip() + "\n"

    def write(self, out: Path) -> None:
        print(self.text())
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{self.name}.json").write_text(json.dumps({**asdict(self), "machine": machine()}, indent=1) + "\n")
        (out / f"{self.name}.txt").write_text(self.text())


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Enough to judge a figure by."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # noqa: PERF203 - five of them
            versions[package] = None
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "python": platform.python_version(), "system": f"{platform.system()} "
                                                       f"{platform.machine()}", "cores": os.cpu_count(),
        "load_average_1m": load, "packages": versions, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def arguments(description: str, **defaults: int) -> argparse.Namespace:
    """The options that all benchmarks have: --quick for a self-check with tiny counts, --out,
    and one for each default.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="tiny counts: shows that it runs, its figures mean nothing"
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder for the JSON and the text")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=None, help=f"default {value}")
    parsed = parser.parse_args()
    for name, value in defaults.items():
        if getattr(parsed, name) is None:
            setattr(
                parsed,
                name,
                max(1, value // 50) if parsed.quick and name != "rounds" else (2 if parsed.quick else value),
            )
    return parsed


def spread(series: Series) -> str:
    return f"{_cell(series.low)} .. {_cell(series.high)}"
