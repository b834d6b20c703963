"""What tests/conftest.py holds every test to, tried on a session of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.test import ROOT

TESTS = """
import logging, time
import pytest
from vibevoice_otel import failures
from vibevoice_otel.sdk.capability import Capability

def fail(text):
    try:
        raise ValueError(text)
    except ValueError as error:
        failures.warn_once(text, error)

@pytest.fixture
def broken_fixture():
    yield
    fail("at the end")

def test_swallows_quietly():
    fail("a place")

def test_swallows_it_again():
    fail("a place")

def test_swallows_while_a_fixture_ends(broken_fixture):
    pass

def test_falls_back():
    Capability("spans", lambda: 1 / 0, "otherwise").works()

def test_logs_an_exception():
    try:
        raise KeyError
    except KeyError:
        logging.getLogger("vibevoice_otel.any").exception("went wrong")

@pytest.mark.swallows("another place")
def test_wants_another():
    fail("a place")

@pytest.mark.swallows("a place")
def test_wants_it():
    fail("a place")

def test_starts_a_process():
    from tests.support.swallowed import swallowed
    swallowed.read("INFO ready\\n2026 WARNING telemetry failed in a place and goes on without it; further ...")

def test_warns():
    logging.getLogger("vibevoice_otel.any").warning("a setting is odd")

def test_leaves_the_clock_patched():
    time.time_ns = lambda: 1

def test_patches_the_clock(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1.0)
    assert time.time_ns() > 1
"""


def outcomes(folder: Path, text: str) -> tuple[list[str], str]:
    """The tests that have an error (the module itself: an empty name), and what pytest printed."""
    (folder / "test_it.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = swallows: as in pyproject.toml\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rE", str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.findall(r"^ERROR \S*test_it\.py(?:::(\w+))?", run.stdout, re.MULTILINE)
    return found, run.stdout


def test_what_is_swallowed_breaks_the_test_in_which_it_happens(tmp_path: Path) -> None:
    """In the test or in a fixture of its own, the first time or not, unless the marker names it; so does a clock that
    stays patched.
    """
    failed, said = outcomes(tmp_path, TESTS)
    assert failed == [
        "test_swallows_quietly",
        "test_swallows_it_again",
        "test_swallows_while_a_fixture_ends",
        "test_falls_back",
        "test_logs_an_exception",
        "test_wants_another",
        "test_starts_a_process",
        "test_leaves_the_clock_patched",
    ], said
    assert "11 passed" in said


@pytest.mark.parametrize("clock", ["time", "monotonic_ns", "perf_counter"])
def test_a_module_that_patches_the_clock_on_import_fails(tmp_path: Path, clock: str) -> None:
    """It would be patched for every test of the session."""
    failed, said = outcomes(tmp_path, f"import time\ntime.{clock} = lambda: 1\n\ndef test_anything():\n    pass\n")
    assert failed == [""], said
    assert f"patches time.{clock} on import" in said
