"""A program's own sinks: given to instrument(), or installed as entry points."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.support.pipeline import pipeline
from vibevoice_otel import wiring

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "slowest.py"


def example() -> Any:
    """The sink of docs/development.md."""
    spec = importlib.util.spec_from_file_location("slowest", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Slowest()


def test_the_documented_example_is_the_tested_one() -> None:
    """What docs/development.md shows is the file that these tests run, and it is short."""
    assert EXAMPLE.read_text().rstrip() in (ROOT / "docs" / "development.md").read_text()
    assert len(EXAMPLE.read_text().splitlines()) <= 20


def test_a_sink_given_to_instrument_reads_every_request() -> None:
    """Two requests of one voice: the slower first audio stays."""
    sink = example()
    with pipeline(sinks=[sink]) as speaking:
        speaking.run(b"text=one", b"text=two")
        speaking.instrumentor.recorder.flush()
        assert len(sink.seconds) == 1
        assert all(0 < seconds < 60 for seconds in sink.seconds.values())


@pytest.mark.swallows("the sink")
def test_an_installed_sink_is_found_and_one_that_fails_costs_itself_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Entry points of the group vibevoice_otel_sinks; the broken one is named with what it costs."""
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    entries = [
        importlib.metadata.EntryPoint("slowest", "slowest:Slowest", wiring.SINKS),
        importlib.metadata.EntryPoint("broken", "no_such_module:Sink", wiring.SINKS),
    ]
    monkeypatch.setattr(wiring, "entry_points", lambda group: entries if group == wiring.SINKS else [])
    found = wiring._installed_sinks()
    assert [type(each).__name__ for each in found] == ["Slowest"]
    assert "the sink broken (no_such_module:Sink)" in caplog.text
