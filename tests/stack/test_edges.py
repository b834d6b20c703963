"""Counters read at the edges of blocks, in the real Prometheus: exact whatever happens to a process within a block."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.stack.fixtures import backfill, need
from tests.unit.insight.simulator import Scrapes
from tools.stack.prometheus import Prometheus
from vibevoice_otel import semconv
from vibevoice_otel.insight import PrometheusSource

HOUR = 60  # scrapes, one a minute
HOURS = 24
REQUESTS = semconv.REQUESTS.prometheus


def lives() -> dict[str, np.ndarray]:
    """What each instance shows at each scrape, NaN where it is absent. Blocks of 6 hours meet at 6, 12, 18."""
    counts = np.cumsum(np.random.default_rng(1).poisson(1.0, (6, HOURS * HOUR + 1)), axis=1).astype(float)
    steady, restarted, ended, born, brief, unseen = counts
    fell = round(9.3 * HOUR)
    restarted[fell:] -= restarted[fell]
    ended[round(13.1 * HOUR) :] = np.nan
    born[: round(11.2 * HOUR)] = np.nan
    brief[: round(14.2 * HOUR)] = brief[15 * HOUR :] = np.nan
    unseen[12 * HOUR - 10 : 12 * HOUR + 10] = np.nan
    return {"steady": steady, "restarted": restarted, "ended": ended, "born": born, "brief": brief, "unseen": unseen}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusSource]:
    need("prometheus", "promtool")
    folder: Path = tmp_path_factory.mktemp("edges")
    end = time.time() // 60 * 60 - 4 * 3600
    scrapes = Scrapes(end - 60.0 * np.arange(HOURS * HOUR, -1, -1))
    for name, values in lives().items():
        of = {"job": "speech", "instance": name}
        scrapes.put(REQUESTS, {**of, "voice": "v", "status": "success"}, values)
        version = "1.3" if name in {"born", "brief"} else "1.2"
        info = np.where(np.isnan(values), np.nan, 1.0)
        scrapes.put(semconv.BUILD_INFO.prometheus, {**of, "version": "1", "service_version": version}, info)
    backfill(folder, scrapes.openmetrics())
    with Prometheus(folder) as server:
        yield PrometheusSource(server.url, window=HOURS * 3600, end=end)


def truth() -> dict[str, float]:
    """What each counter truly grew by: all that it shows where it was not there at first."""
    lived = lives()
    found = {name: float(np.nanmax(values) - np.nan_to_num(values[0])) for name, values in lived.items()}
    fell = round(9.3 * HOUR)
    restarted = lived["restarted"]
    found["restarted"] = float(restarted[fell - 1] - restarted[0] + restarted[-1])
    return found


@pytest.mark.parametrize("blocks", [4, 24])
def test_the_growth_is_exact_whatever_happens_within_a_block(source: PrometheusSource, blocks: int) -> None:
    """A restart is estimated as increase() does; an end, a birth, a life between two edges and a gap in the scrapes
    over an edge cost nothing.
    """
    found = {t.labels["instance"]: t.values for t in source.growths(REQUESTS, ("instance",), blocks)}
    expected = truth()
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert len(values) == blocks
        assert values.sum() == pytest.approx(expected[name], rel=0.01 if name == "restarted" else 1e-9), name
    assert (found["steady"] > 0).all()


def test_a_long_window_is_read_whole_only_where_something_happened(
    source: PrometheusSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole window's growth is the same; a process that lived through it is read at the edges alone."""
    asked: list[str | None] = []
    exact = PrometheusSource._exact

    def noted(
        self: PrometheusSource, series: str, by: tuple[str, ...], seconds: int, end: float, instances: str | None = None
    ):  # type: ignore[no-untyped-def]
        asked.append(instances)
        return exact(self, series, by, seconds, end, instances)

    monkeypatch.setattr(PrometheusSource, "_exact", noted)
    fresh = PrometheusSource(source.origin.address, window=HOURS * 3600, end=source.origin.end)
    found = {point.labels["instance"]: point.value for point in fresh.growth(REQUESTS, ("instance",))}
    assert found == pytest.approx(truth(), rel=0.01)
    assert asked == ["restarted", "brief|ended"]


def test_only_processes_of_a_version_count(source: PrometheusSource) -> None:
    """Joined on job and instance, block by block; a birth and a short life included."""
    chosen = PrometheusSource(
        source.origin.address, window=HOURS * 3600, end=source.origin.end, of={"service_version": "1.3"}
    )
    found = {point.labels["instance"]: point.value for point in chosen.growth(REQUESTS, ("instance",))}
    assert {name: value for name, value in found.items() if value} == pytest.approx(
        {name: value for name, value in truth().items() if name in {"born", "brief"}}
    )
