"""``vibevoice-otel demo``: start the service under the launcher, speak with several voices, lengths and settings, show
what was seen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from vibevoice_otel import semconv
from vibevoice_otel.commands.clients import Outcome, WebSocketClient, speak
from vibevoice_otel.commands.demo import waterfall
from vibevoice_otel.commands.demo.receiver import ReceivedSpan, Receiver
from vibevoice_otel.commands.demo.whole import whole
from vibevoice_otel.process.workers import free

SHORT = "Good morning."
MEDIUM = "The train to the coast leaves at nine from the third platform, and it is on time."
LONG = MEDIUM + " Please mind the gap, and keep your luggage with you at all times. We wish you a pleasant journey." * 2
VOICES = ("en-Carter_man", "en-Emma_woman", "de-Spk0_man", "fr-Spk1_woman")
START_TIMEOUT = 120.0
REQUEST_TIMEOUT = 120.0
#: The voice that was asked for, and what came of it.
Heard = tuple[str, Outcome]


def plan() -> list[tuple[str, str, float, int]]:
    """(text, voice, cfg, steps) of each request: every voice speaks every length, cfg and steps vary."""
    settings = ((1.5, 5), (1.5, 5), (1.3, 10), (2.0, 3))
    return [
        (text, voice, *settings[(v + t) % len(settings)])
        for t, text in enumerate((SHORT, MEDIUM, LONG))
        for v, voice in enumerate(VOICES)
    ]


def free_port(preferred: int) -> int:
    """``preferred`` when it is free on loopback, else any."""
    if free("127.0.0.1", preferred):
        return preferred
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Service:
    """The embedded service in a process of its own, under ``opentelemetry-instrument``."""

    def __init__(self, endpoint: str, *, page: bool = True) -> None:
        self.port, self.metrics_port = free_port(8000), free_port(9464)
        self.page = f"127.0.0.1:{free_port(9465)}" if page else ""
        self._log = tempfile.NamedTemporaryFile("w+", prefix="vibevoice-otel-demo-", suffix=".log", delete=False)  # noqa: SIM115 - outlives this call
        self.log_path = Path(self._log.name)
        # The operator's own OTEL_* choices win over the demo's defaults.
        environment = {
            "OTEL_SERVICE_NAME": "vibevoice-demo",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{endpoint}/v1/traces",
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(self.metrics_port),
            "OTEL_BSP_SCHEDULE_DELAY": "250",
            "OMP_NUM_THREADS": "1",
            **({"VIBEVOICE_OTEL_PAGE": self.page} if self.page else {}),
            **os.environ,
        }
        launcher = Path(sys.executable).with_name("opentelemetry-instrument")
        command = [str(launcher), sys.executable, "-m", "vibevoice_otel.service", "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=environment, stdout=self._log, stderr=subprocess.STDOUT)  # noqa: S603 - our own command

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        """Raises RuntimeError with the service's last words when it ends, or does not answer in time."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/healthz", timeout=2):  # noqa: S310 - our own address
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(
            f"the service did not start; its last words ({self.log_path}):\n{self.log_path.read_text()[-2000:]}"
        )

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 1 when the service or every request failed."""
    parser = argparse.ArgumentParser(prog="vibevoice-otel demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the requests instead of serving on")
    parser.add_argument(
        "--requests", type=int, default=len(plan()), help=f"how many requests to send (at most {len(plan())})"
    )
    arguments = parser.parse_args(argv)
    console = Console()
    receiver = Receiver()
    service = Service(receiver.endpoint)
    try:
        with console.status("Starting the service under opentelemetry-instrument …"):
            service.wait_until_ready()
        heard = _speak(console, service, plan()[: max(1, arguments.requests)])
        receiver.wait_for(lambda: sum(map(whole, receiver.traces().values())) >= len(heard), 15)
        ok = _show(console, service, receiver, heard)
        if arguments.once or not ok:
            return 0 if ok else 1
        _serve_on(console, service)
    except RuntimeError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped.")
    finally:
        service.stop()
        receiver.close()
    return 0


def _speak(console: Console, service: Service, requests: Sequence[tuple[str, str, float, int]]) -> list[Heard]:
    heard: list[Heard] = []
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("Speaking", total=len(requests))
        for text, voice, cfg, steps in requests:
            progress.update(task, description=f"Speaking {voice}, {len(text)} characters")
            client = WebSocketClient(f"ws://127.0.0.1:{service.port}/stream?cfg={cfg}&steps={steps}")
            heard.append((voice, asyncio.run(speak(client, text, voice, {}, REQUEST_TIMEOUT))))
            progress.advance(task)
    return heard


def _show(console: Console, service: Service, receiver: Receiver, heard: Sequence[Heard]) -> bool:
    traces = [spans for spans in receiver.traces().values() if any(s.name == semconv.SYNTHESIZE.name for s in spans)]
    failed = [outcome for _, outcome in heard if outcome.first_audio is None]
    if not traces:
        console.print(
            f"[red]No trace arrived.[/red] `vibevoice-otel doctor` says why; the service's log is {service.log_path}"
        )
        return False
    console.rule("[bold]The first request, cold")
    _one(console, traces[0], frames=1)
    if len(traces) > 1:
        console.rule("[bold]A later one, warm")
        _one(console, traces[1], frames=2)
    console.rule("[bold]First audio, by voice")
    console.print(_latencies(heard, traces))
    if failed:
        console.print(f"[red]{len(failed)} of {len(heard)} requests had no audio:[/red] {failed[0]}")
    spans = sum(len(t) for t in traces)
    console.print(
        f"Requests: {len(heard)}, traces: {len(traces)}, spans: {spans:,}. [dim]Random weights: it makes noise, not "
        "speech.[/dim]"
    )
    return len(failed) < len(heard)


def _one(console: Console, spans: Sequence[ReceivedSpan], frames: int) -> None:
    root = next(s for s in spans if s.name == semconv.SYNTHESIZE.name)
    facts = root.attributes
    console.print(
        f"{facts.get(semconv.VOICE.key)}, {facts.get(semconv.TEXT_LENGTH.key)} characters, cfg "
        f"{facts.get(semconv.CFG.key)}, {facts.get(semconv.STEPS.key)} steps: {facts.get(semconv.STATUS.key)}, first "
        f"audio after {1000 * float(str(facts.get(semconv.FIRST_AUDIO_LATENCY.key) or 0)):.0f} ms, "
        f"{facts.get(semconv.FRAMES.key)} frames, trace {root.trace_id}",
        highlight=False,
    )
    waterfall.render(console, spans, frames)


def _latencies(heard: Sequence[Heard], traces: Sequence[Sequence[ReceivedSpan]]) -> Table:
    """The server's first-audio latency by voice (from the traces) beside the client's."""
    server: dict[str, list[float]] = {}
    for root in (span for spans in traces for span in spans if span.name == semconv.SYNTHESIZE.name):
        latency = root.attributes.get(semconv.FIRST_AUDIO_LATENCY.key)
        if isinstance(latency, float):
            server.setdefault(str(root.attributes.get(semconv.VOICE.key)), []).append(latency * 1000)
    table = Table(
        Column("voice", no_wrap=True, min_width=max(len(voice) for voice, _ in heard)), "requests", "server median ms",
        "server max ms", "client median ms", "within the SLO", header_style="bold",
    )  # fmt: skip
    for voice in dict.fromkeys(voice for voice, _ in heard):
        client = [each.first_audio * 1000 for name, each in heard if name == voice and each.first_audio is not None]
        own = server.get(voice, [])
        if own and client:
            good = sum(value <= semconv.SLO_FIRST_AUDIO_SECONDS * 1000 for value in own)
            table.add_row(
                voice, str(len(own)), f"{statistics.median(own):.1f}", f"{max(own):.1f}",
                f"{statistics.median(client):.1f}", f"{good} of {len(own)}",
            )  # fmt: skip
    return table


def _serve_on(console: Console, service: Service) -> None:
    console.rule("[bold]Still serving")
    if service.page:
        console.print(f"Live page   http://{service.page}/   [bold]open this[/bold]")
    console.print(
        f"Service     ws://127.0.0.1:{service.port}/stream?text=Hello&voice=en-Emma_woman   (GET {service.url}/config)"
    )
    console.print(f"Metrics     http://127.0.0.1:{service.metrics_port}/metrics")
    console.print(f"Log         {service.log_path}")
    console.print("Ctrl-C ends it.")
    service.process.wait()


if __name__ == "__main__":
    sys.exit(main())
