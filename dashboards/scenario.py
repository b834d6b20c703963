"""The demo service behind the real Collector and Prometheus, well at first and then with one fault after the other.

The stack test evaluates the dashboards' own queries on it, and `make pictures` draws them. Nothing here invents a
number, but for ``Card``: a machine without a GPU has no memory to fill, so its memory comes from values given here,
through the real instruments and exporter.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tools.stack.collector import Collector
from tools.stack.prometheus import Prometheus
from tools.stack.service import Service
from vibevoice_otel import semconv
from vibevoice_otel.metrics.instruments import Instruments, Limits

GOOD: Final = ("en-Carter_man", "en-Emma_woman")
SLOW: Final = "fr-Spk0_man"
CORRUPT: Final = "de-Spk0_man"
CARD: Final = "fake-card"
SETTLE_S: Final = 3.0  # until what happened is exported, scraped and seen
SHORT: Final = "Nine short words are quite enough for this."
LONG: Final = " ".join([SHORT] * 5)
HIGH_CFG: Final = 9.0
FAULTS: Final = (
    "slow voice",
    "corrupt voice",
    "cfg too high",
    "long text",
    "cold start",
    "memory pressure",
    "slow reader",
    "collector restart",
)
#: What the service is started with; the faults of one voice leave the others alone, so they share a process with the
#: healthy one.
PROCESSES: Final[Mapping[str, Mapping[str, object]]] = {
    "well": {"slow_voices": {SLOW: 0.06}, "corrupt_voices": [CORRUPT]},
    "cold": {"load_delay": 1.0},
    "reader": {"reader_delay": 0.3},
}


@dataclass(frozen=True, slots=True)
class Phase:
    """What happened between ``start`` and ``end`` (Unix seconds) on the process whose instance label is
    ``instance``.
    """

    name: str
    start: float
    end: float
    instance: str

    @property
    def window(self) -> str:
        return f"{round((self.end - self.start) * 1000)}ms"


class Card:
    """A GPU that is not there: its memory is what it is told, its instruments and exporter are the real ones."""

    LIMIT = 24e9

    def __init__(self, otlp: str, service: str) -> None:
        self.used = 6e9
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(endpoint=otlp, insecure=True, timeout=5), export_interval_millis=1000
        )
        identity = {"service.name": service, "service.instance.id": CARD, "deployment.environment.name": "scenario"}
        self._provider = MeterProvider([reader], resource=Resource(identity), shutdown_on_exit=False)
        instruments = Instruments(self._provider, "scenario", Limits(100, 1000))
        read: dict[semconv.Metric, Callable[[], float]] = {
            semconv.GPU_MEMORY: lambda: self.used,
            semconv.GPU_MEMORY_RESERVED: lambda: self.used + 0.5e9,
            semconv.GPU_MEMORY_LIMIT: lambda: self.LIMIT,
            semconv.GPU_MEMORY_FREE: lambda: self.LIMIT - self.used - 0.5e9,
        }
        for metric, value in read.items():
            instruments.observe(metric, lambda value=value: [(value(), {semconv.M_DEVICE.key: "0"})])  # type: ignore[misc]

    def close(self) -> None:
        self._provider.shutdown()


@dataclass
class Scenario:
    """The running parts and what has happened so far."""

    prometheus: Prometheus
    agent: Collector
    services: dict[str, Service]
    card: Card
    phases: list[Phase] = field(default_factory=list)

    @property
    def healthy(self) -> list[Phase]:
        return [phase for phase in self.phases if phase.name == "healthy"]

    def phase(self, name: str) -> Phase:
        return next(phase for phase in self.phases if phase.name == name)

    @contextlib.contextmanager
    def during(self, name: str, process: str = "well") -> Iterator[None]:
        """Record a phase, from now until what it caused can be seen in Prometheus."""
        start = time.time()
        yield
        time.sleep(SETTLE_S)
        self.phases.append(Phase(name, start, time.time(), self._instance(process)))

    def _instance(self, process: str) -> str:
        found = self.prometheus.query(f'{semconv.BUILD_INFO.prometheus}{{service="{NAMES[process]}"}}')
        return "|".join(sorted({labels["instance"] for labels, _ in found} | {CARD}))

    def say(
        self, voices: tuple[str, ...], text: str = SHORT, cfg: float = 1.5, process: str = "well", times: int = 2
    ) -> None:
        """Requests one after the other, ``times`` for each voice; one that fails, fails."""
        for voice in voices * times:
            with contextlib.suppress(WebSocketException, OSError):
                _listen(self.services[process].address, {"text": text, "voice": voice, "cfg": f"{cfg:g}"})


def _listen(address: str, request: Mapping[str, str]) -> None:
    """One request, heard to its end."""
    with connect(f"ws://{address}/stream?{urllib.parse.urlencode(request)}", max_size=None) as socket:
        for _ in socket:
            pass


NAMES: Final = {process: f"tts-{process}" for process in PROCESSES}


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Scenario]:
    """The parts, started and warm, nothing measured yet. Ends them all."""
    base = {
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=scenario",
        "OTEL_TRACES_EXPORTER": "none",
    }
    with contextlib.ExitStack() as parts:
        agent = parts.enter_context(Collector("agent", folder / "agent"))
        targets = {"agent": [agent.metrics], "collector": [agent.telemetry]}
        prometheus = parts.enter_context(Prometheus(folder / "prometheus", targets, interval="1s"))

        def start(process: str) -> tuple[str, Service]:
            own = folder / process
            own.mkdir()
            faults = {"VIBEVOICE_SERVICE_FAULTS": json.dumps(PROCESSES[process])}
            return process, Service(own, agent.grpc, base | faults, NAMES[process])

        with ThreadPoolExecutor(len(PROCESSES)) as pool:
            services = dict(pool.map(start, PROCESSES))
        for service in services.values():
            parts.callback(service.stop)
        card = Card(agent.grpc, NAMES["well"])
        parts.callback(card.close)
        yield Scenario(prometheus, agent, services, card)


def play(scenario: Scenario, healthy: int = 3) -> None:
    """Healthy rounds, then each fault; about a minute on an idle machine."""
    # Not measured: what is loaded once.
    scenario.say((*GOOD, SLOW), times=1)
    scenario.say(GOOD[:1], cfg=HIGH_CFG, times=1)
    scenario.say(GOOD[:1], LONG, times=1)
    scenario.say(GOOD[:1], process="reader", times=1)
    time.sleep(SETTLE_S)
    for _ in range(healthy):
        with scenario.during("healthy"):
            scenario.say(GOOD)
    with scenario.during("slow voice"):
        scenario.say((SLOW,))
    with scenario.during("corrupt voice"):
        scenario.say((*GOOD, CORRUPT))
    with scenario.during("cfg too high"):
        scenario.say(GOOD, cfg=HIGH_CFG)
    with scenario.during("long text"):
        scenario.say(GOOD[:1], LONG)
    with scenario.during("cold start", "cold"):
        scenario.say(GOOD, process="cold", times=1)
    with scenario.during("memory pressure"):
        scenario.card.used = 0.95 * Card.LIMIT
        scenario.say(GOOD, times=1)
    scenario.card.used = 6e9
    time.sleep(SETTLE_S)
    with scenario.during("slow reader", "reader"):
        scenario.say(GOOD[:1], process="reader", times=2)
    with scenario.during("collector restart"):
        scenario.agent.stop()
        time.sleep(SETTLE_S)
        scenario.agent.restart()
        deadline = time.monotonic() + 30  # the services try again after a while
        while time.monotonic() < deadline and not scenario.prometheus.query(semconv.BUILD_INFO.prometheus):
            time.sleep(0.5)
