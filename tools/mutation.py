"""Mutates recording, metrics and sampling, and runs the unit tests that reach each mutant: a sample, drawn by a seed.

    make mutation ARGS="--count 500 --minutes 40"

mutmut works in a copy of the tree (build/mutation). Left out are the device and the GPU's files, whose tests need
torch, and tests that run a real model.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHERE = ROOT / "build" / "mutation"
#: Of the smallest file: mutmut makes every mutant before it runs these.
FIRST = "vibevoice_otel.sampling.share*"
SETTINGS = """
[tool.mutmut]
source_paths = ["vibevoice_otel"]
only_mutate = ["vibevoice_otel/recording/*", "vibevoice_otel/metrics/*", "vibevoice_otel/sampling/*"]
do_not_mutate = ["vibevoice_otel/recording/device/*", "vibevoice_otel/metrics/gpu.py", "vibevoice_otel/metrics/nvml.py"]
also_copy = ["registry", "dashboards", "docs", "README.md", "CHANGELOG.md", "tools", "benchmarks"]
pytest_add_cli_args = ["-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = [
    "tests/unit/recording", "tests/unit/metrics", "tests/unit/sampling", "tests/unit/checks",
    "--deselect=tests/unit/recording/test_recorder.py::test_a_flush_answered_at_once_leaves_no_hurry",
    "--ignore=tests/unit/recording/test_finish.py", "--ignore=tests/unit/checks/test_request.py",
]
process_isolation = "forkserver"
"""
MEANS = {0: "survived", 1: "killed", 33: "no test reaches it", None: "not reached in time"}


def mutmut(*names: str, seconds: float | None = None) -> None:
    command = ["nice", "-n", "10", sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names]
    try:
        subprocess.run(command, cwd=WHERE, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        print("time is up")


def results() -> dict[str, int | None]:
    """The exit code of each mutant's tests."""
    found: dict[str, int | None] = {}
    for file in sorted(WHERE.glob("mutants/vibevoice_otel/**/*.meta")):
        found.update(json.loads(file.read_text())["exit_code_by_key"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="mutants in the sample")
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--minutes", type=float, default=40.0, help="for the sample; making the mutants comes before")
    chosen = parser.parse_args()
    shutil.rmtree(WHERE, ignore_errors=True)
    ours = ("vibevoice_otel", "tests", "registry", "dashboards", "docs", "tools", "benchmarks")
    for folder in ours:
        shutil.copytree(ROOT / folder, WHERE / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / file, WHERE / file)
    (WHERE / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + SETTINGS)
    mutmut(FIRST)
    every = sorted(results())
    sample = random.Random(chosen.seed).sample(every, min(chosen.count, len(every)))
    mutmut(*sample, seconds=chosen.minutes * 60)
    found = results()
    for name in sample:
        if found[name] == 0:
            print(f"survived: {name}")
    counted = Counter(MEANS.get(found[name], "killed (out of time, or crashed)") for name in sample)
    print(f"{len(sample)} of {len(every)} mutants: {dict(counted)}")


if __name__ == "__main__":
    main()
