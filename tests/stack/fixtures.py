"""Fixtures with the real programs. Other folders' tests use them by ``from tests.stack.fixtures import *`` in their
conftest.py.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tools import toolchain
from tools.stack.collector import Collector
from tools.stack.prometheus import Prometheus
from tools.stack.traces import TraceStore

__all__ = ["agent", "certificate", "eventually", "need", "prometheus", "traces"]
T = TypeVar("T")


def need(*programs: str) -> None:
    """Skip the test, or on CI fail it, where a program is not built."""
    missing = [program for program in programs if toolchain.path(program) is None]
    if not missing:
        return
    reason = (
        f"{', '.join(missing)} not built: run `make tools` (once, about 7 minutes on two cores; kept in "
        "~/.cache/vibevoice-otel)"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def eventually(look: Callable[[], T], seconds: float = 120.0, pause: float = 0.1) -> T:
    """The first truthy answer; the last one, for the test's own assertion to show, when none came in time.

    The time limits a failure, not a success: it is as long as a loaded machine may take to start a program.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = look()
        if answer or time.monotonic() > deadline:
            return answer
        time.sleep(pause)


def backfill(folder: Path, openmetrics: str) -> None:
    """Puts series with their times into the data of the Prometheus that is to run in ``folder``.

    The last hour is to be left out: its blocks could meet the head of the running Prometheus.
    """
    text = folder / "metrics.txt"
    text.write_text(openmetrics)
    command = [toolchain.require("promtool"), "tsdb", "create-blocks-from", "openmetrics", text, folder / "data"]
    subprocess.run([str(each) for each in command], check=True, capture_output=True)
    text.unlink()


@pytest.fixture(scope="session")
def traces() -> Iterator[TraceStore]:
    """Where the shared agent's traces end."""
    with TraceStore(limit=5000) as store:
        store.keeps = True  # for a search of everything that came
        yield store


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory, traces: TraceStore) -> Iterator[Collector]:
    """The shipped agent configuration, running; its traces go to ``traces``."""
    need("otelcol-vibevoice")
    with Collector("agent", tmp_path_factory.mktemp("agent"), traces.endpoint) as collector:
        yield collector


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory, agent: Collector) -> Iterator[Prometheus]:
    """The stack's Prometheus, scraping the shared agent every second; ready once it has."""
    need("prometheus")
    folder: Path = tmp_path_factory.mktemp("prometheus")
    with Prometheus(folder, {"agent": [agent.metrics], "collector": [agent.telemetry]}, interval="1s") as server:
        assert eventually(lambda: len(server.query("up == 1")) == 2), server.process.tail()
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of this test run for localhost, its own authority, and its key: (cert file, key file)."""
    from tests.stack.certificates import self_signed

    return self_signed(tmp_path_factory.mktemp("tls"))
