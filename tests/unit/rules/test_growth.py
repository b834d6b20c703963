"""What panels and alerts count with: promql.grown, run by Prometheus' own engine on series as they come and go."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashboards.promql import grown, ordered, total
from tests.stack.fixtures import need
from tests.unit.rules import promtool

#: Name -> (samples, one a minute from 0; minute; window; growth).
CASES = {
    "a series that was there": ("5x10 8x20", 20, "15m", 3),
    "its first observation": ("_x10 1x20", 15, "10m", 1),
    "its first observation is older than the window": ("_x10 1x20", 25, "10m", 0),
    "a first observation and more": ("_x10 2 3 5x20", 15, "10m", 5),
    "nothing happened": ("7x30", 20, "10m", 0),
    "a scrape failed at the window's beginning": ("3x8 _x4 5x20", 20, "10m", 2),
    "the Collector was away for half an hour": ("100x9 stale _x29 103x60", 45, "20m", 3),
    "the process ended within the window": ("4x10 6x2 stale", 15, "10m", 2),
    "the process ended before it": ("4x3 stale", 20, "10m", None),
    "the same series begins anew": ("40x10 2x20", 20, "12m", 2),
}


@pytest.fixture(autouse=True)
def _promtool() -> None:
    need("promtool")


@pytest.mark.parametrize("name", CASES)
def test_growth_is_exact(name: str, tmp_path: Path) -> None:
    """Whole numbers, whenever the series began, ended or was away."""
    values, minute, window, expected = CASES[name]
    samples = [] if expected is None else [{"labels": '{voice="a"}', "value": expected}]
    check = {"expr": total("voice", grown('c{voice="a"}', window)), "eval_time": f"{minute}m", "exp_samples": samples}
    assert not promtool.run(tmp_path, {"groups": []}, {'c{voice="a"}': values}, {"promql_expr_test": [check]})


def test_light_traffic_is_counted_whole(tmp_path: Path) -> None:
    """One request in a minute, each of another voice: ten of ten are counted, of which increase() sees none."""
    series = {f'c{{voice="{index}"}}': f"_x{index} 1x60" for index in range(1, 11)}
    seen = {"expr": f"sum({grown('c', '30m')})", "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": 10}]}
    missed = {"expr": "sum(increase(c[30m]))", "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": 0}]}
    assert not promtool.run(tmp_path, {"groups": []}, series, {"promql_expr_test": [seen, missed]})


def test_steps_are_sorted_as_numbers(tmp_path: Path) -> None:
    """The label that Prometheus sorts by first puts 2 before 10; what is no number keeps its name."""
    series = {f'm{{step_index="{index}"}}': "1x10" for index in ("0", "2", "10", "other")}
    expected = {"0": "00", "2": "02", "10": "10", "other": "other"}
    check = {
        "expr": ordered("step_index", "sum by (step_index) (m)"),
        "eval_time": "5m",
        "exp_samples": [
            {"labels": f'{{aligned="{aligned}", step_index="{index}"}}', "value": 1}
            for index, aligned in expected.items()
        ],
    }
    assert not promtool.run(tmp_path, {"groups": []}, series, {"promql_expr_test": [check]})
