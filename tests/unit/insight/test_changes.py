"""What changed within a window: versions, revisions, drivers, as a process tells of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.unit.insight.simulator import MemorySource, Service, observe
from vibevoice_otel.insight.compare.changes import changes
from vibevoice_otel.insight.source import Source, Track

BEGIN = 1_700_000_000.0


def told(series: dict[tuple[tuple[str, str], ...], tuple[float, float]]) -> list[tuple[str, str, str]]:
    """(label, before, after) of each change that is found; ``series``: labels of build_info -> from and to, as shares
    of the window.
    """
    scrapes = observe(Service(hours=2), 1, BEGIN)
    for labels, (first, last) in series.items():
        place = np.linspace(0, 1, len(scrapes.times))
        scrapes.put(
            "vibevoice_build_info",
            {"job": "a", **dict(labels)},
            np.where((place >= first) & (place <= last), 1.0, np.nan),
        )

    def opened(window: float, end: float, of: dict[str, str]) -> Source:
        return MemorySource(scrapes, window)

    return [(each.label, each.before, each.after) for each in changes(MemorySource(scrapes), opened).changes]


def test_a_new_version_revision_and_driver_are_each_listed() -> None:
    """By the names of the registry, in order of time."""
    old = (
        ("instance", "1"),
        ("service_version", "1.2"),
        ("vibevoice_model_revision", "aaa"),
        ("hw_driver_version", "550"),
    )
    mid = (
        ("instance", "2"),
        ("service_version", "1.3"),
        ("vibevoice_model_revision", "aaa"),
        ("hw_driver_version", "550"),
    )
    new = (
        ("instance", "3"),
        ("service_version", "1.3"),
        ("vibevoice_model_revision", "bbb"),
        ("hw_driver_version", "560"),
    )
    assert told({old: (0, 0.3), mid: (0.31, 0.6), new: (0.61, 1)}) == [
        ("service_version", "1.2", "1.3"),
        ("vibevoice_model_revision", "aaa", "bbb"),
        ("hw_driver_version", "550", "560"),
    ]


def test_what_becomes_known_is_no_change() -> None:
    """A process that names its adapter and its model's revision from its first request on has changed nothing."""
    early = (("instance", "1"), ("adapter", "none"))
    late = (("instance", "1"), ("adapter", "realtime"), ("vibevoice_model_revision", "aaa"))
    assert told({early: (0, 0.4), late: (0.41, 1)}) == []


def test_what_changed_at_once_is_compared_once() -> None:
    """A version and a revision that came with the same processes: one comparison, under each one's own names."""
    scrapes, asked = observe(Service(hours=2), 1, BEGIN), []
    place = np.linspace(0, 1, len(scrapes.times))
    for number, there in enumerate((place <= 0.5, place > 0.5)):
        labels = {
            "job": "a",
            "instance": f"{number}",
            "service_version": f"1.{number}",
            "vibevoice_model_revision": f"r{number}",
        }
        scrapes.put("vibevoice_build_info", labels, np.where(there, 1.0, np.nan))

    def opened(window: float, _end: float, of: dict[str, str]) -> Source:
        source = MemorySource(scrapes, window)
        growths = source.growths

        def noted(series: str, by: Sequence[str], blocks: int) -> list[Track]:
            asked.append(tuple(of))
            return growths(series, by, blocks)

        source.growths = noted  # type: ignore[method-assign]
        return source

    found = changes(MemorySource(scrapes), opened).changes
    assert [(each.label, each.comparison and (each.comparison.a, each.comparison.b)) for each in found] == [
        ("service_version", ("1.0", "1.1")),
        ("vibevoice_model_revision", ("r0", "r1")),
    ]
    assert set(asked) == {("service_version",)}
