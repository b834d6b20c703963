"""``make stack``: service, Collector, Prometheus, Alertmanager and a trace store on this machine; Ctrl-C ends all."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar
from urllib.parse import quote, urlsplit

from tools.stack.alertmanager import Alertmanager
from tools.stack.collector import Collector
from tools.stack.jaeger import Jaeger
from tools.stack.process import NotReadyError, Process, taken
from tools.stack.prometheus import Prometheus
from tools.stack.service import Service, speak
from tools.stack.tempo import Tempo
from tools.stack.traces import TraceStore

T = TypeVar("T")
BUILD_JAEGER = "python3 -m tools.toolchain jaeger, 5 minutes"
FIRST_AUDIO = "vibevoice_first_audio_latency_seconds_bucket"
P95 = f"histogram_quantile(0.95, sum by (le, voice) (rate({FIRST_AUDIO}[5m])))"


@dataclass
class Traces:
    """Where traces go (``endpoint``, OTLP/gRPC) and how one is looked at: ``page`` + trace id,
    or as text by ``show``.
    """

    endpoint: str
    page: str
    about: str
    show: Callable[[str], str] | None = None


def main(argv: list[str] | None = None) -> int:
    """Run until told to stop; 1 when a part does not start or dies."""
    parser = argparse.ArgumentParser(prog="make stack ARGS=", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="the service's (8000)")
    parser.add_argument("--prometheus-port", type=int, default=9090)
    parser.add_argument("--alertmanager-port", type=int, default=9093)
    parser.add_argument("--traces-port", type=int, default=3200, help="the trace store's, where there is no Tempo")
    parser.add_argument(
        "--interval", default=None, help="scrape interval in place of the shipped 15 s, for trying things out (1s)"
    )
    parser.add_argument("--once", action="store_true", help="one request, its series and its trace, then end")
    chosen = parser.parse_args(argv)
    for option in ("port", "prometheus_port", "alertmanager_port", "traces_port"):
        if taken(getattr(chosen, option)):
            parser.error(f"port {getattr(chosen, option)} is in use: choose another with --{option.replace('_', '-')}")
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    folder = Path(tempfile.mkdtemp(prefix="vibevoice-otel-stack-"))
    with contextlib.ExitStack() as running:
        running.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            return _run(chosen, folder, running, stopped)
        except (NotReadyError, FileNotFoundError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


def _run(chosen: argparse.Namespace, folder: Path, running: contextlib.ExitStack, stopped: threading.Event) -> int:
    def say(text: str) -> None:
        print(text, flush=True)

    say(f"Starting; logs in {folder}")
    traces = _traces(folder, running, chosen.traces_port)
    agent = running.enter_context(Collector("agent", folder / "collector", traces.endpoint))
    alerts = running.enter_context(Alertmanager(folder / "alertmanager", chosen.alertmanager_port))
    prometheus = Prometheus(folder / "prometheus", interval=chosen.interval, port=chosen.prometheus_port)
    running.enter_context(prometheus)
    for name, address in (("agent", agent.metrics), ("collector", agent.telemetry), ("alertmanager", alerts.address)):
        prometheus.target(name, [address])
    prometheus.target("prometheus", [prometheus.address])
    environment = {"OTEL_METRIC_EXPORT_INTERVAL": "1500"} if chosen.interval else {}
    service = Service(folder, agent.grpc, environment, port=chosen.port)
    running.enter_context(service)
    say(_where(service, prometheus, alerts, agent, traces))
    parts = [service.process, agent.process, prometheus.process, alerts.process]
    found = _follow(service, prometheus, traces, parts, stopped, say)
    if chosen.once:
        return 0 if found else 1
    while not stopped.wait(1):
        dead = next((part for part in parts if not part.running), None)
        if dead is not None:
            print(f"error: {dead.name} ended. The end of its log:\n{dead.tail()}", file=sys.stderr)
            return 1
    say("\nEnding.")
    return 0


def _traces(folder: Path, running: contextlib.ExitStack, port: int) -> Traces:
    """An existing Tempo (TEMPO_URL, its OTLP port 4317), one started from PATH, Jaeger where it is built, or the small
    store.
    """
    given = os.environ.get("TEMPO_URL", "").rstrip("/")
    if given:
        endpoint = os.environ.get("TEMPO_OTLP") or f"{urlsplit(given).hostname}:4317"
        return Traces(endpoint, f"{given}/api/traces/", f"Tempo at {given}, OTLP at {endpoint}")
    with contextlib.suppress(FileNotFoundError):
        tempo = running.enter_context(Tempo(folder / "tempo"))
        return Traces(tempo.endpoint, f"{tempo.url}/api/traces/", f"Tempo at {tempo.url}")
    with contextlib.suppress(FileNotFoundError):
        jaeger = running.enter_context(Jaeger(folder / "jaeger", port))
        about = f"Jaeger's query API at {jaeger.url}/api/services (built without its web interface)"
        return Traces(jaeger.endpoint, f"{jaeger.url}/api/v3/traces/", about, jaeger.waterfall)
    store = running.enter_context(TraceStore(http_address=("127.0.0.1", port)))
    about = f"{store.url}/ (a small store of the last 500; Jaeger takes its place once built: {BUILD_JAEGER})"
    return Traces(store.endpoint, f"{store.url}/trace/", about, store.waterfall)


def _where(service: Service, prometheus: Prometheus, alerts: Alertmanager, agent: Collector, traces: Traces) -> str:
    return f"""
  service       http://{service.address}/config    ws://{service.address}/stream?text=Hello&voice=en-Carter_man
  metrics       {prometheus.url}/api/v1/query?query={quote(P95)}
                (built without its web interface: ask the API, or point a Grafana at {prometheus.url})
  alerts        {prometheus.url}/api/v1/alerts     {alerts.url}/api/v2/alerts
  traces        {traces.about}
  collector     OTLP at {agent.grpc} and http://{agent.http}, series at http://{agent.metrics}/metrics
"""


def _follow(
    service: Service,
    prometheus: Prometheus,
    traces: Traces,
    parts: list[Process],
    stopped: threading.Event,
    say: Callable[[str], None],
) -> bool:
    """One request, its series in Prometheus, its exemplar, its trace. False when one of them did not come."""
    say("One request, from its series to its trace (the first scrape takes up to half a minute) ...")
    speak(service.address)
    deadline = time.monotonic() + 90

    def wait(look: Callable[[], T | None]) -> T | None:
        while time.monotonic() < deadline and not stopped.is_set() and all(part.running for part in parts):
            with contextlib.suppress(urllib.error.URLError, OSError):
                answer = look()
                if answer:
                    return answer
            stopped.wait(0.5)
        return None

    series = wait(lambda: prometheus.query(f"{FIRST_AUDIO.removesuffix('_bucket')}_count"))
    exemplars = wait(lambda: prometheus.exemplars(FIRST_AUDIO))
    if stopped.is_set():
        return False
    if not series or not exemplars:
        for part in parts:
            state = "is running" if part.running else "ENDED"
            say(f"\n{part.name} {state}; the end of its log:\n{part.tail(1500)}")
        say("error: nothing arrived in Prometheus" if not series else "error: no exemplar arrived in Prometheus")
        return False
    exemplar = exemplars[-1]
    trace_id = exemplar["labels"]["trace_id"]

    def whole() -> str | None:
        text: str = urllib.request.urlopen(traces.page + trace_id, timeout=5).read().decode()
        return text if "vibevoice.decode" in text else None

    trace = wait(whole)
    say(
        f"  Prometheus    vibevoice_first_audio_latency_seconds of {exemplar['seriesLabels']['voice']}: "
        f"{float(exemplar['value']):.3f} s"
    )
    say(f"  its exemplar  trace_id {trace_id}")
    say(f"  its trace     {traces.page}{trace_id}")
    if trace and traces.show is not None:
        say("\n" + "\n".join(f"    {line}" for line in traces.show(trace_id).splitlines()[2:14]) + "\n    ...")
    return trace is not None


if __name__ == "__main__":
    sys.exit(main())
