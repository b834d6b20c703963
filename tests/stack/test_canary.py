"""A canary beside its stable, through the real Collector and Prometheus: a step slowed by 5 % is found, an unchanged
one is not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.stack.fixtures import eventually
from tools.stack.collector import Collector
from tools.stack.prometheus import Prometheus
from tools.stack.service import Service, speak
from vibevoice_otel import semconv
from vibevoice_otel.insight import PrometheusSource
from vibevoice_otel.insight.compare.report import Answer, Comparison, Labelled, compare

pytestmark = [pytest.mark.serial, pytest.mark.timeout(600)]
NAME = "canary-of-three"
COUNTED = f'sum({semconv.REQUESTS.prometheus}{{service="{NAME}"}})'
#: A step sleeps so long, far longer than it computes: what the machine is busy with moves it little.
STEP = 0.040
STEPS = {"stable": STEP, "unchanged": STEP, "slower": STEP * 1.05}
#: So long each service is asked, again and again; blocks of it are what the interval rests on.
SECONDS, BLOCK = 130.0, 10.0


@pytest.fixture(scope="module")
def asked(
    agent: Collector, prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, PrometheusSource]]:
    """Three versions of the embedded service, each asked without a pause for two minutes, side by side."""
    with ExitStack() as running:
        services = {}
        for version, delay in STEPS.items():
            folder: Path = tmp_path_factory.mktemp(version)
            environment = {
                "OTEL_RESOURCE_ATTRIBUTES": f"service.version={version}",
                "OTEL_METRIC_EXPORT_INTERVAL": "1000",
                "OTEL_TRACES_EXPORTER": "none",
                "VIBEVOICE_SERVICE_FAULTS": json.dumps({"step_delay": delay}),
            }
            service = Service(folder, agent.grpc, environment, NAME)
            services[version] = running.enter_context(service)
            speak(service.address, "warm")
        end = time.monotonic() + SECONDS
        with ThreadPoolExecutor(len(services)) as pool:
            asked = sum(pool.map(lambda each: _ask(each.address, end), services.values()))
        total = asked + len(services)  # each was warmed up
        assert eventually(lambda: [value for _, value in prometheus.query(COUNTED)] == [total])
        yield {
            version: PrometheusSource(
                prometheus.url, window=SECONDS - 10, match={"service": NAME}, of={"service_version": version}
            )
            for version in services
        }


def _ask(address: str, end: float) -> int:
    """How many requests it made until then."""
    asked = 0
    while time.monotonic() < end:
        speak(address, "ok")
        asked += 1
    return asked


def _compared(asked: dict[str, PrometheusSource], version: str) -> tuple[Comparison, Answer]:
    report = compare(
        Labelled(asked["stable"], "stable"), Labelled(asked[version], version), paired=True, shortest_block=BLOCK
    )
    (step,) = [answer for answer in report.answers if answer.name == "diffusion step"]
    return report, step


def test_a_step_slowed_by_5_percent_is_found(asked: dict[str, PrometheusSource]) -> None:
    """The canary's diffusion step is worse, by an interval that holds what was put in; the command would end with 3."""
    report, step = _compared(asked, "slower")
    assert step.effect is not None
    assert report.verdict == "worse"
    assert step.verdict == "worse"
    assert 0 < step.effect.low < 0.05
    assert step.effect.high > 0.03


def test_an_unchanged_canary_is_not(asked: dict[str, PrometheusSource]) -> None:
    """Its interval is narrower than 3 % either way: no different. (That it holds zero is true of most intervals.)"""
    _, step = _compared(asked, "unchanged")
    assert step.effect is not None
    assert step.effect.low > -0.03
    assert step.effect.high < 0.03
    assert step.verdict == "no different"


def test_versions_are_told_apart_by_the_resource(asked: dict[str, PrometheusSource], prometheus: Prometheus) -> None:
    """service.version stands on target_info and vibevoice_build_info; each side's requests are its own."""
    total = eventually(lambda: prometheus.query(COUNTED))
    counts = {
        version: sum(p.value for p in source.growth(semconv.REQUESTS.prometheus, ("voice",)))
        for version, source in asked.items()
    }
    assert all(count > 5 for count in counts.values())
    assert sum(counts.values()) <= total[0][1]
