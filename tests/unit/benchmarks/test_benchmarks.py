"""The benchmarks' self-check: they run, their tables say what they should, and what they count has not grown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness, instructions

pytestmark = pytest.mark.serial

ROOT = Path(__file__).resolve().parents[3]
#: Instructions may grow by this much before somebody must look; numpy's and the SDK's releases move them by a few
#: percent.
TOLERANCE = 1.15


@pytest.mark.parametrize("name", ["hot_path", "cpu", "growth", "stages"])
@pytest.mark.timeout(280)
def test_a_benchmark_runs_by_one_command(name: str, tmp_path: Path) -> None:
    """Tiny counts: it prints its table, and writes it as text and as JSON with the machine it ran on."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--out", str(tmp_path)],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = sorted(tmp_path.glob("*.json"))
    assert written
    for file in written:
        report = json.loads(file.read_text())
        assert report["title"] in done.stdout
        assert all(len(row) == len(report["columns"]) for row in report["rows"])
        assert report["machine"]["packages"]["opentelemetry-sdk"]
        assert file.with_suffix(".txt").read_text() in done.stdout


def test_contenders_take_turns_and_the_first_round_is_not_kept() -> None:
    """Each round has every contender once, and another one first."""
    order: list[str] = []

    def contender(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = harness.alternate({name: (lambda name=name: contender(name)) for name in "abc"}, 2)  # type: ignore[misc]
    assert "".join(order) == "abcbcacab"
    assert [len(each.values) for each in found.values()] == [2, 2, 2]


def test_ratios_are_taken_round_by_round() -> None:
    """A slow round divides out: the ratio of medians would not show that one is always twice the other."""
    one, two = harness.Series("one", [1.0, 100.0, 2.0]), harness.Series("two", [2.0, 200.0, 4.0])
    assert harness.ratio(two, one).values == [2.0, 2.0, 2.0]


def test_a_report_says_which_goal_is_not_met() -> None:
    """A reader sees at once what is promised and what was found."""
    report = harness.Report(
        "n",
        "A title",
        "us",
        ["what", "us"],
        [["ours", 2.5], ["naive", 1234.5]],
        [harness.Goal("at most 3", False, "3.1")],
    )
    assert (
        report.text() == "A title\n\nwhat      us\n-----  -----\nours     2.5\nnaive  1,234\n\nNOT MET at most 3: 3.1\n"
    )


@pytest.mark.skipif(not instructions.available(), reason="no valgrind to count instructions with")
@pytest.mark.timeout(580)
def test_the_hot_path_has_not_grown() -> None:
    """Instructions of the step's hook: at most twice the floor's on every Python, and no more than recorded where that
    was done.
    """
    found = instructions.count(("floor", "hook"))
    assert found["hook"] <= 2 * found["floor"]
    recorded = instructions.baseline()
    if recorded is None:
        pytest.skip(f"no baseline for {instructions.python_version()}: python -m benchmarks.instructions --record")
    assert found["hook"] <= recorded["hook"] * TOLERANCE


@pytest.mark.skipif(not instructions.available(), reason="no valgrind to count instructions with")
@pytest.mark.skipif(instructions.baseline() is None, reason=f"no baseline for {instructions.python_version()}")
@pytest.mark.timeout(580)
@pytest.mark.parametrize("work", ["frame", "encode", "request"])
def test_the_rest_has_not_grown(work: str) -> None:
    """Instructions of all notes of a frame, of writing one block of 80 steps, and of a whole request with its
    background.
    """
    recorded = instructions.baseline()
    assert recorded is not None
    assert instructions.count((work,))[work] <= recorded[work] * TOLERANCE


def test_the_medians_interval_holds_it() -> None:
    """Of samples whose median is known, at least 95 % have it within the interval."""
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(1000):
        low, high = harness.interval(generator.lognormal(0, 1, 40).tolist())
        held += low <= 1.0 <= high
    assert 950 <= held < 1000
