"""The dashboards mark a change of what a service runs, once, and nothing else: on the real Prometheus, for services
with known histories.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dashboards.queries import CHANGES, bound
from tests.stack.fixtures import backfill, need
from tests.unit.insight.simulator import Scrapes
from tools.stack.prometheus import Prometheus
from vibevoice_otel import semconv

MINUTES, INTERVAL = 180, 15
#: Service -> what each of its processes ran: labels, first minute, last minute.
Life = tuple[dict[str, str], float, float]
OLD, NEW = {"version": "1.2"}, {"version": "1.3"}
FIRST, SECOND = OLD | {"vibevoice_model_revision": "aaa"}, OLD | {"vibevoice_model_revision": "bbb"}
HISTORIES: dict[str, tuple[Life, ...]] = {
    "steady": ((OLD, 0, MINUTES),),
    "new": ((NEW, 60, MINUTES),),
    "restarted": ((OLD, 0, 60), (OLD, 61, MINUTES)),
    "away": ((OLD, 0, 60), (OLD, 95, MINUTES)),
    "upgraded": ((OLD, 0, 60), (NEW, 61.25, MINUTES)),
    "upgraded after a pause": ((OLD, 0, 60), (NEW, 95, MINUTES)),
    "rolled out": ((OLD, 0, 60), (OLD, 0, 66), (NEW, 60.5, MINUTES), (NEW, 66.5, MINUTES)),
    "rolled back": ((OLD, 0, 60), (NEW, 60.5, 85), (OLD, 85.5, MINUTES)),
    # A model is known from the first request on.
    "idle": ((FIRST, 0, 60), (OLD, 61, 85), (FIRST, 85, MINUTES)),
    "another model": ((FIRST, 0, 60), (OLD, 61, 85), (SECOND, 85, MINUTES)),
    "canary": ((OLD, 0, MINUTES), (NEW, 60, 70), (NEW, 77, MINUTES)),
}
MARKS = {
    "upgraded": {"version 1.3": 1},
    "upgraded after a pause": {"version 1.3": 1},
    "rolled out": {"version 1.3": 1},
    "rolled back": {"version 1.3": 1, "version 1.2": 1},
    "another model": {"vibevoice.model.revision bbb": 1},
    "canary": {"version 1.3": 1},
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, float]]:
    """A Prometheus with all histories, and when they begin."""
    need("prometheus", "promtool")
    folder: Path = tmp_path_factory.mktemp("changes")
    # The grid of the queries' steps does not fall on that of the scrapes.
    begin = (time.time() // 900) * 900 - (MINUTES + 90) * 60 + 7
    scrapes = Scrapes(begin + np.arange(0, MINUTES * 60, INTERVAL))
    for service, lives in HISTORIES.items():
        for number, (runs, first, last) in enumerate(lives):
            there = (scrapes.times >= begin + first * 60) & (scrapes.times < begin + last * 60)
            who = {"service": service, "job": "vibevoice", "instance": f"{service}-{number}", "adapter": "pipeline"}
            scrapes.put(semconv.BUILD_INFO.prometheus, who | runs, np.where(there, 1.0, np.nan))
    backfill(folder, scrapes.openmetrics())
    with Prometheus(folder) as server:
        yield server, begin


@pytest.mark.parametrize("step", [15, 60, 300, 900])
def test_a_change_is_marked_once(step: int, begun: tuple[Prometheus, float]) -> None:
    """Upgrades, releases rolled out and back, another model, a canary: one mark for each new value. Restarts, a pause,
    a service that is new, a canary that restarts: none. At every distance of points that Grafana asks for.
    """
    server, begin = begun
    window = {"start": str(begin // step * step), "end": str(begin + MINUTES * 60), "step": str(step)}
    found: dict[str, dict[str, int]] = {}
    for series in server.get("query_range", query=bound(CHANGES, interval=f"{step}s"), **window)["result"]:
        times = [float(at) for at, _ in series["values"]]
        # Points no further apart than a step are one annotation, as Grafana draws them.
        marks = 1 + sum(later - earlier > step for earlier, later in pairwise(times))
        found.setdefault(series["metric"]["service"], {})[series["metric"]["changed"]] = marks
        first = begin + 60 * next(start for runs, start, _ in HISTORIES[series["metric"]["service"]][1:])
        assert times[0] >= first
    assert found == MARKS
