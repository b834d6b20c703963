"""Rules, panels and insight on VictoriaMetrics, fed by Prometheus' remote write, beside Prometheus and the clients' own
ledger.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from websockets.exceptions import WebSocketException

from dashboards.boards import asked
from dashboards.queries import bound
from tests.stack.fixtures import eventually
from tools.stack.collector import Collector
from tools.stack.prometheus import RULES, Api, Prometheus
from tools.stack.service import Service, speak
from tools.stack.victoria import Victoria
from vibevoice_otel.insight import PrometheusSource, capacity, voices

NAME, BROKEN = "stored", "de-Spk0_man"
SPOKEN = ("en-Carter_man", "fr-Spk1_woman", BROKEN)


@dataclass
class Both:
    """The two stores, what the clients did, and the moment that every query asks about."""

    prometheus: Prometheus
    victoria: Victoria
    ledger: Counter[tuple[str, str]] = field(default_factory=Counter)
    start: float = 0.0
    end: float = 0.0

    @property
    def window(self) -> str:
        return f"{math.ceil(self.end - self.start)}s"

    def ask(self, expression: str) -> tuple[Any, Any]:
        """Labels and values at the end, from Prometheus and from VictoriaMetrics."""
        return values(self.prometheus, expression, self.end), values(self.victoria, expression, self.end)


def values(store: Api, expression: str, moment: float) -> dict[tuple[tuple[str, str], ...], float]:
    data = store.get("query", query=expression, time=f"{moment:.3f}")
    if data["resultType"] == "scalar":
        return {(): float(data["result"][1])}
    found = {tuple(sorted(each["metric"].items())): float(each["value"][1]) for each in data["result"]}
    return {labels: value for labels, value in found.items() if not math.isnan(value)}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Six requests for each of three voices, one of which fails always, scraped every second and written on."""
    folder = tmp_path_factory.mktemp("stores")
    settings = {
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "VIBEVOICE_SERVICE_FAULTS": f'{{"corrupt_voices": ["{BROKEN}"]}}',
    }
    with Victoria(folder / "victoria") as victoria, Collector("agent", folder / "agent") as agent:
        written = {"scrape_configs:": f"remote_write:\n  - url: {victoria.write}\n\nscrape_configs:"}
        targets = {"agent": [agent.metrics], "collector": [agent.telemetry]}
        with (
            Prometheus(folder / "prometheus", targets, interval="1s", replace=written) as prometheus,
            Service(folder, agent.grpc, settings, name=NAME) as service,
        ):
            stores = Both(prometheus, victoria, start=time.time())
            for voice in SPOKEN * 6:
                try:
                    speak(service.address, "Nine short words are quite enough for this.", voice)
                except WebSocketException:
                    stores.ledger[voice, "error"] += 1
                else:
                    stores.ledger[voice, "success"] += 1
            counted = f'sum(vibevoice_streaming_requests_total{{service="{NAME}"}})'

            def arrived() -> bool:
                return all(each.query(counted) and each.query(counted)[0][1] == 18 for each in (prometheus, victoria))

            assert eventually(arrived, 60)
            time.sleep(5)  # the rules have been evaluated on all of it, and written
            stores.end = math.floor(time.time() - 2)
            yield stores


def expressions() -> dict[str, str]:
    """Every expression of the shipped rules and panels, by where it stands."""
    found = {}
    for file in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            found |= {
                f"{group['name']}: {rule.get('record') or rule['alert']}": rule["expr"] for rule in group["rules"]
            }
    for board, panel, index, query in asked():
        found[f"{board.uid}: {panel.title} {index}"] = bound(query.expr, {"service": NAME}, "30s", "2m")
    return found


def equal(first: dict[Any, float], second: dict[Any, float]) -> bool:
    """The same series with the same values, to what adding floats in another order changes."""
    return first.keys() == second.keys() and all(
        math.isclose(value, second[labels], rel_tol=1e-6, abs_tol=1e-9) for labels, value in first.items()
    )


#: Where the two differ, and why (docs/scale.md). Nothing else may.
DIFFERENT: dict[str, str] = {}


def test_every_rule_and_panel_gives_the_same_on_both(both: Both) -> None:
    """At the same moment, all series and all values; what differs is listed with its reason, and really does."""
    answers = {where: both.ask(expression) for where, expression in expressions().items()}
    assert sum(bool(answer[0]) for answer in answers.values()) > len(answers) / 2  # most have something to compare
    differ = {where: answer for where, answer in answers.items() if not equal(*answer)}
    assert {where: answer for where, answer in differ.items() if where not in DIFFERENT} == {}
    assert set(DIFFERENT) <= set(differ)


def test_both_count_what_the_clients_counted(both: Both) -> None:
    """Requests by voice and status in the window, by the growth that panels and rules use: the ledger, exactly, on
    both.
    """
    from dashboards.promql import growth
    from vibevoice_otel import semconv

    expression = (
        f"sum by (voice, status) ({growth(semconv.REQUESTS, both.window, f'service={chr(34)}{NAME}{chr(34)}')}) > 0"
    )
    for found in both.ask(expression):
        counted = {(dict(labels)["voice"], dict(labels)["status"]): value for labels, value in found.items()}
        assert counted == dict(both.ledger)


def test_an_increase_of_one_s_own_is_nearer_on_victoria(both: Both) -> None:
    """Not in any shipped expression: PromQL extrapolates an increase and misses a series' first value, MetricsQL does
    neither.
    """
    increase = f'sum(increase(vibevoice_streaming_requests_total{{service="{NAME}"}}[{both.window}]))'
    ours, theirs = (found.get((), 0.0) for found in both.ask(increase))
    true = sum(both.ledger.values())
    assert abs(theirs - true) <= abs(ours - true), (ours, theirs)
    assert theirs == pytest.approx(true)


def test_insight_says_the_same_of_both(both: Both) -> None:
    """Capacity and voices, answered from VictoriaMetrics as from Prometheus."""
    sources = [
        PrometheusSource(store.url, window=both.end - both.start, end=both.end)
        for store in (both.prometheus, both.victoria)
    ]
    for answer in (voices, capacity):
        first, second = (dict(leaves(dataclasses.asdict(answer(source)))) for source in sources)
        assert first.keys() == second.keys()
        for path, value in first.items():
            if path != ".origin.address":
                number = isinstance(value, float)
                assert value == (pytest.approx(second[path], rel=1e-6, nan_ok=True) if number else second[path]), path


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text of an answer, by its path."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{name}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path, value
