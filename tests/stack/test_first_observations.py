"""No first observation is lost, whichever way the series come: through the Collector, by OTLP, or scraped from the
service itself.

Where the way carries the time at which a series began, Prometheus stores a zero there, and rate() sees the first
observation. The dashboards' and rules' own expression (promql.grown) needs no such zero: it counts the same on every
way.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from dashboards.promql import growth
from tests.stack.fixtures import eventually, need
from tools import overlay
from tools.ports import free_ports
from tools.stack.collector import Collector
from tools.stack.prometheus import FEATURES, Prometheus
from tools.toolchain.recipes import ROOT
from vibevoice_otel import semconv

COUNT: Final = f"{semconv.FIRST_AUDIO.prometheus}_count"
SDKS: Final = ("sdk-oldest", "sdk-newest")
WITHOUT: Final = ("exemplar-storage",)

#: Of late_voice.py, whose import would turn this process' clock back.
TRACE_ID = format(0xABCDEF, "032x")


@contextmanager
def observed(way: str, sdk: str, folder: Path, features: tuple[str, ...]) -> Iterator[Prometheus]:
    """A Prometheus that the hour-old process of late_voice.py has reached that way."""
    need("prometheus")
    with ExitStack() as running:
        if way == "otlp":
            flags = ("--web.enable-otlp-receiver",)
            prometheus = running.enter_context(
                Prometheus(folder, config="otlp.yml", interval="1s", features=features, flags=flags)
            )
            address = f"{prometheus.url}/api/v1/otlp/v1/metrics"
        elif way == "collector":
            need("otelcol-vibevoice")
            agent = running.enter_context(Collector("agent", folder / "agent"))
            prometheus = running.enter_context(
                Prometheus(folder, {"agent": [agent.metrics]}, interval="1s", features=features)
            )
            address = agent.grpc
        else:
            address = f"127.0.0.1:{free_ports(1)[0]}"
            prometheus = running.enter_context(
                Prometheus(
                    folder, config="direct.yml", interval="1s", features=features, replace={"127.0.0.1:9464": address}
                )
            )
        command = [str(overlay.make(sdk)), "-m", "tests.stack.late_voice", way, address]
        process = running.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True))
        told = process.stdin
        assert told is not None
        running.callback(told.close)

        def stored() -> bool:
            if len(samples(prometheus)) > 1:
                return True
            if way == "otlp":  # nothing is scraped: another export is another sample
                told.write("again\n")
                told.flush()
            return False

        assert eventually(stored, pause=0.5), prometheus.process.tail()
        yield prometheus


def samples(prometheus: Prometheus) -> list[float]:
    """Stored values of the late voice's count, the oldest first."""
    found = prometheus.get("query", query=f'{COUNT}{{voice="late"}}[5m]')["result"]
    return [float(value) for _, value in found[0]["values"]] if found else []


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("way", ["collector", "otlp"])
def test_a_series_begins_at_zero(way: str, sdk: str, tmp_path: Path) -> None:
    """The zero sample is there for a voice first heard an hour after start: rate() sees its first request; the exemplar
    came too.
    """
    with observed(way, sdk, tmp_path, FEATURES) as prometheus:
        stored = samples(prometheus)
        assert stored[0] == 0
        assert set(stored[1:]) == {1}
        ((_, rate),) = prometheus.query(f'increase({COUNT}{{voice="late"}}[5m])')
        assert rate > 0.5
        bucket = f'{semconv.FIRST_AUDIO.prometheus}_bucket{{voice="late"}}'
        exemplars = eventually(lambda: prometheus.exemplars(bucket))
        assert {each["labels"]["trace_id"] for each in exemplars} == {TRACE_ID}


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize(
    ("way", "features"), [("collector", WITHOUT), ("otlp", WITHOUT), ("direct", FEATURES), ("collector", FEATURES)]
)
def test_dashboards_and_rules_count_it_all_the_same(
    way: str, features: tuple[str, ...], sdk: str, tmp_path: Path
) -> None:
    """Without the flag, and on the way that carries no start, no zero is stored; what panels and alerts ask counts the
    request.
    """
    with observed(way, sdk, tmp_path, features) as prometheus:
        if features == WITHOUT or way == "direct":
            assert 0 not in samples(prometheus)
        for metric, suffix in ((semconv.FIRST_AUDIO, "_count"), (semconv.REQUESTS, "")):
            asked, both = growth(metric, "5m", suffix=suffix), {"early": 1, "late": 1}

            def found(asked: str = asked) -> dict[str, float]:
                return {labels["voice"]: value for labels, value in prometheus.query(asked)}

            eventually(lambda both=both, found=found: found() == both)  # also after a scrape that failed
            assert found() == both
