"""On and off again, in any order: the machine of machine.py, in a process of its own, and with each mend taken out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = sorted((ROOT / "tests" / "mutants").glob("*.patch"))


def machine(*what: str, package: Path = ROOT, patience: float = 30) -> subprocess.CompletedProcess[str]:
    """Run it with the ``vibevoice_otel`` that lies in ``package``; ``patience`` in seconds for each answer."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.lifecycle.machine", *what],
        check=False, cwd=package, capture_output=True, text=True, timeout=900,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
             "LIFECYCLE_PATIENCE": str(patience)},
    )  # fmt: skip


def steps(mutant: Path) -> str:
    """The first line of a patch: the shortest order of steps that tells it from the real thing."""
    head = mutant.read_text().splitlines()[0]
    assert head.startswith("steps: ")
    return head.removeprefix("steps: ")


@pytest.mark.timeout(900)
def test_every_order_of_two_steps() -> None:
    """After each step spans, metrics, threads, patched attributes, open files and live objects are what they
    must be.
    """
    done = machine("pairs")
    assert done.returncode == 0, done.stderr[-8000:]


@pytest.mark.timeout(900)
def test_300_orders_of_up_to_eight_steps() -> None:
    """The same ones in each run."""
    done = machine("examples", "300")
    assert done.returncode == 0, done.stderr[-8000:]


def test_a_thousand_cycles_leave_nothing() -> None:
    """Instrument, one request, uninstrument: memory flat, no thread, no handler, no file more."""
    done = machine("cycles", "1000")
    assert done.returncode == 0, done.stderr[-8000:]


def test_the_orders_that_find_a_mutant_pass_without_it() -> None:
    """So that it is the patch alone that fails below."""
    done = machine("steps", *map(steps, MUTANTS))
    assert done.returncode == 0, done.stderr[-8000:]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda path: path.stem)
def test_a_mend_that_is_taken_out_is_found(mutant: Path, tmp_path: Path) -> None:
    """Each patch undoes one mend; its steps fail with it. A patch that no longer applies is to be made anew."""
    shutil.copytree(ROOT / "vibevoice_otel", tmp_path / "vibevoice_otel")  # what is compiled goes with its source
    applied = subprocess.run(
        ["patch", "-p1", "--fuzz=3", "--no-backup-if-mismatch", "-i", str(mutant)],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert applied.returncode == 0, applied.stdout
    undone = machine("steps", steps(mutant), package=tmp_path, patience=5)
    assert undone.returncode == 1, f"{mutant.stem} is not found: {undone.stderr[-4000:]}"
