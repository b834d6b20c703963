"""A program started here: ready when its own endpoint says so, its log in a file, ended by SIGTERM and, failing that,
SIGKILL.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

READY_S = 120.0  # a loaded machine imports torch for a while
STOP_S = 15.0


class NotReadyError(RuntimeError):
    """The program ended early or never answered; the message holds the end of its log."""


def taken(port: int) -> bool:
    """Whether a process already listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


class Running:
    """Something that runs until it is told to stop; a context manager that does so at its end."""

    def stop(self) -> int:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Process(Running):
    """One running program. Use as a context manager, or call stop().

    Args:
        name: for messages and the log's file name.
        command: what to run.
        log: folder that receives NAME.log.
        environment: added to this process's environment.
        ready: URL that answers 200 once the program works; None to skip the wait.

    Raises:
        NotReadyError: from the constructor.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        log: Path,
        environment: dict[str, str] | None = None,
        ready: str | None = None,
    ) -> None:
        self.name = name
        self.log = log / f"{name}.log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )
        if ready is not None:
            self._wait(ready)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def _wait(self, url: str) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.running:
            if answers(url):
                return
            time.sleep(0.05)
        why = (
            f"did not answer {url} within {READY_S:.0f} s"
            if self.running
            else f"ended with code {self._process.returncode}"
        )
        self.kill()
        raise NotReadyError(f"{self.name} {why}. The end of {self.log}:\n{self.tail()}")

    def tail(self, characters: int = 3000) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-characters:]

    def stop(self) -> int:
        """End it as an operator would; returns its exit code (negative: the signal that it took)."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        return int(self._process.returncode)

    def kill(self) -> None:
        """End it as kill -9 does."""
        self._process.kill()
        self._process.wait()


def answers(url: str) -> bool:
    """Whether the URL answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException):
        return False
