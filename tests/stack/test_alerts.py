"""The shipped rules against real failures of the real service: a stall, a voice that always fails, a kill -9.

The rules' own windows last up to hours. Here they are loaded with every duration divided by SPEED, and nothing else
changed.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import pytest
from websockets.exceptions import WebSocketException

from tests.stack.fixtures import eventually, need
from tools.stack.alertmanager import Alertmanager
from tools.stack.collector import Collector
from tools.stack.prometheus import RULES, Prometheus
from tools.stack.service import Service, speak

SPEED = 30
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
BROKEN = "de-Spk0_man"
DURATION = re.compile(r'(\[|offset |\bfor: "?|\binterval: "?)(\d+)([smhd])\b')


def sped_up(text: str) -> str:
    """Every window, offset, hold and interval of a rule file, divided by SPEED."""
    return DURATION.sub(lambda found: f"{found[1]}{int(found[2]) * SECONDS[found[3]] * 1000 // SPEED}ms", text)


@dataclass
class Incident:
    """What happened, watched from its beginning: an alert ends some time after its cause, whoever has asked for it."""

    prometheus: Prometheus
    alerts: Alertmanager
    seen: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Keep the labels of every alert that Alertmanager has, by name and service, until it is over."""
        while not self.over.wait(0.5):
            with contextlib.suppress(OSError):
                self.seen |= self.firing()

    def firing(self) -> dict[tuple[str, str], dict[str, str]]:
        """What Alertmanager has now."""
        with urlopen(f"{self.alerts.url}/api/v2/alerts") as answer:
            found = [each["labels"] for each in json.load(answer)]
        return {(labels["alertname"], labels.get("service_name", "")): labels for labels in found}


@pytest.fixture(scope="module")
def incident(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Incident]:
    """A service whose engine hangs before its first frame; one whose one voice always fails and one of whose two
    workers was killed.
    """
    need("otelcol-vibevoice", "prometheus", "alertmanager")
    folder: Path = tmp_path_factory.mktemp("incident")
    rules = folder / "prometheus" / "rules"
    rules.mkdir(parents=True)
    for file in RULES.glob("*.yml"):
        (rules / file.name).write_text(sped_up(file.read_text()))
    fast = {"OTEL_METRIC_EXPORT_INTERVAL": "1000", "OTEL_TRACES_EXPORTER": "none"}
    failing = {**fast, "VIBEVOICE_SERVICE_FAULTS": json.dumps({"corrupt_voices": [BROKEN]})}
    hanging = {**fast, "VIBEVOICE_SERVICE_FAULTS": json.dumps({"hang_at_frame": 0}), "VIBEVOICE_SERVICE_TIMEOUT": "600"}
    with contextlib.ExitStack() as running:
        agent = Collector("agent", folder / "agent", environment={"COLLECTOR_METRIC_EXPIRATION": f"{300 // SPEED}s"})
        alerts = Alertmanager(folder / "alertmanager")
        targets = {"agent": [agent.metrics], "alertmanager": [alerts.address]}
        for part in (agent, alerts, prometheus := Prometheus(folder / "prometheus", targets, interval="1s")):
            running.enter_context(part)
        found = Incident(prometheus, alerts)
        threading.Thread(target=found.watch, daemon=True).start()
        running.callback(found.over.set)
        starts = [("stalled", hanging), ("pair", failing), ("pair", failing)]

        def start(number: int) -> Service:
            own = folder / f"service-{number}"
            own.mkdir()
            return Service(own, agent.grpc, starts[number][1], starts[number][0])

        with ThreadPoolExecutor(3) as pool:
            stalled, first, second = (running.enter_context(service) for service in pool.map(start, range(3)))

        def forgotten() -> None:
            with contextlib.suppress(WebSocketException, OSError):
                speak(stalled.address)

        threading.Thread(target=forgotten, daemon=True).start()
        # As traffic comes: over several exports, since what fails before a series' first export is in no increase().
        for _ in range(50):
            with contextlib.suppress(WebSocketException):
                speak(first.address, voice=BROKEN)
            time.sleep(0.3)
        # For most of what the alert of a lost instance looks back on, there are two.
        both = 'count_over_time((service:vibevoice_instances:count{service="pair"} == 2)[2m:1s]) >= 45'
        assert eventually(lambda: prometheus.query(both)), prometheus.process.tail()
        second.process.kill()
        yield found
        stalled.process.kill()  # its thread hangs for an hour


@pytest.mark.parametrize(
    ("alert", "service"),
    [
        ("VibeVoiceTotalStall", "stalled"),
        ("VibeVoiceStuckStream", "stalled"),
        ("VibeVoiceVoiceSpecificFailureRate", "pair"),
        ("VibeVoiceSuccessBudgetBurn", "pair"),
        ("VibeVoiceInstanceLost", "pair"),
    ],
)
def test_a_real_failure_reaches_alertmanager(alert: str, service: str, incident: Incident) -> None:
    """Its alert fires, names the service, and has severity and service: vibevoice for the routes."""
    labels = eventually(lambda: incident.seen.get((alert, service)), pause=0.5)
    assert labels, [each["labels"] for each in incident.prometheus.get("alerts")["alerts"]]
    assert labels["service"] == "vibevoice"
    assert labels["severity"] in {"warning", "critical"}
    if alert == "VibeVoiceVoiceSpecificFailureRate":
        assert labels["voice"] == BROKEN


def test_a_healthy_part_raises_nothing(incident: Incident) -> None:
    """The other service's alerts stay silent: the stalled one has not failed, the failing one has not stalled."""
    firing = incident.firing()
    assert ("VibeVoiceVoiceSpecificFailureRate", "stalled") not in firing
    assert ("VibeVoiceTotalStall", "pair") not in firing
    assert ("VibeVoiceServiceGone", "pair") not in firing


def test_speeding_up_touches_durations_alone() -> None:
    """A window of 5 m becomes 10 s; names that hold a duration stay."""
    slow = 'x:y:ratio_5m / rate(a[5m]) offset 1h\n for: "10m"\n for: 10m'
    fast = 'x:y:ratio_5m / rate(a[10000ms]) offset 120000ms\n for: "20000ms"\n for: 20000ms'
    assert sped_up(slow) == fast
