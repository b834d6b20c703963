"""The model of scale: it adds up, and docs/scale.md shows what it says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks import scale

ROOT = Path(__file__).resolve().parents[3]


def test_the_document_shows_the_model_s_answers() -> None:
    """A changed cost or assumption changes the document."""
    assert scale.table(scale.Costs()) in (ROOT / "docs" / "scale.md").read_text()


def test_every_cost_was_measured() -> None:
    """None is zero, and so none of the model's answers is."""
    assert all(value > 0 for value in dataclasses.astuple(scale.Costs()))
    assert all(value > 0 for value in dataclasses.astuple(scale.needs(100, scale.Costs())))


def test_ten_times_the_streams_need_ten_times_as_much() -> None:
    """Nothing in the pipeline is shared between streams but fixed costs, which the model leaves out."""
    small, large = scale.needs(1_000, scale.Costs()), scale.needs(10_000, scale.Costs())
    for name, value in dataclasses.asdict(small).items():
        assert dataclasses.asdict(large)[name] == pytest.approx(10 * value, rel=0.01), name


def test_the_load_has_the_series_that_the_table_of_names_computes() -> None:
    """The pages that a store is measured with are those of one process, voice for voice, at one setting."""
    pages = scale.Pages(2, voices=25)
    try:
        first, second = pages.page().decode().splitlines(), pages.page().decode().splitlines()
    finally:
        pages.shutdown()
        pages.server_close()
    names = [line.rsplit(" ", 1)[0] for line in first]
    assert len(set(names)) == pages.series == len(first)
    grown = sum(a != b for a, b in zip(first, second, strict=True))
    assert pages.series / 4 < grown < pages.series / 2
