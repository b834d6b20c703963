"""The embedded service under the launcher with its live page, and a real Chromium to look at it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.swallowed import swallowed
from tests.upstream.sink import Sink
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

#: ``opentelemetry-instrument`` without relying on where scripts are installed: its entry point's own function.
LAUNCHER = (sys.executable, "-c", "from opentelemetry.instrumentation.auto_instrumentation import run; run()")
CHROMIUM_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
MISSING = "no Chromium: install Debian's package (apt-get install chromium)"
REPOSITORY = Path(__file__).parents[2]


def chromium() -> str | None:
    """Where Chromium is."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Running:
    """A service and its page."""

    port: int
    page_port: int
    process: subprocess.Popen[bytes]
    log: Path
    sink: Sink

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.page_port}/"

    def ask(self, path: str) -> Any:
        """A JSON answer of the page's server."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.page_port}{path}", timeout=10) as answer:
            return json.load(answer)


@contextmanager
def serving(where: Path, faults: Mapping[str, object] | None = None, **environment: str) -> Iterator[Running]:
    """The service in a process of its own, until the block ends; ``where`` gets its log."""
    port, page_port = free_port(), free_port()
    with Sink() as sink:
        variables = {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1",
            "OTEL_SERVICE_NAME": "vibevoice", "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "VIBEVOICE_OTEL_PAGE": f"127.0.0.1:{page_port}", "VIBEVOICE_SERVICE_FAULTS": json.dumps(faults or {}),
            **environment,
        }  # fmt: skip
        log = where / "service.log"
        with log.open("wb") as output:
            command = [*LAUNCHER, sys.executable, "-m", "vibevoice_otel.service", "--port", str(port)]
            process = subprocess.Popen(command, cwd=where, env=variables, stdout=output, stderr=subprocess.STDOUT)
        running = Running(port, page_port, process, log, sink)
        try:
            _wait(running)
            yield running
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            swallowed.read(log.read_text(errors="replace"))


def _wait(running: Running, seconds: float = 240.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and running.process.poll() is None:
        try:
            if running.ask("/api/service")["where"] is not None:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the service and its page did not start:\n{running.log.read_text(errors='replace')[-4000:]}")


@contextmanager
def browsing() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(CHROMIUM_FLAGS), timeout=120_000)
        yield browser
        browser.close()


def until(page: Page, met: str, seconds: float = 120.0) -> None:
    """Wait until a JavaScript expression holds. (The page's policy forbids the eval by which playwright would wait
    itself.)
    """
    end = time.monotonic() + seconds
    while not page.evaluate(met):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {met}; the page says: {page.inner_text('#speak-state')!r}")
        time.sleep(0.05)


def opened(page: Page, running: Running) -> Page:
    """The page, ready to speak."""
    page.goto(running.address)
    until(page, "document.querySelectorAll('#voice option').length > 1 && window.vibevoice.clock.error !== null")
    return page


def speak(page: Page, text: str | None = None, voice: str | None = None, *, wait: bool = True) -> None:
    """Type, choose and play; with ``wait`` until the last sound is heard, reported and shown."""
    if text is not None:
        page.fill("#text", text)
    if voice is not None:
        page.select_option("#voice", voice)
    page.click("#play")
    if wait:
        until(
            page,
            "window.vibevoice.session && !window.vibevoice.session.running && window.vibevoice.session.reported !== "
            "undefined",
        )
        until(page, "document.querySelector('#speak-state').dataset.outcome === window.vibevoice.session.outcome")
        drawn(page)


def drawn(page: Page) -> None:
    """Wait until the trace that is looked at has ended and stands in the page, with its story: it is drawn a moment
    after it is known.
    """
    until(page, "window.vibevoice.trace?.done && window.vibevoice.waterfall.version === window.vibevoice.trace.version")
