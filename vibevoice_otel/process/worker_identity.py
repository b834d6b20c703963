"""Workers that share a service.instance.id set from outside are told apart: ``pod-7`` becomes ``pod-7.1``, ``pod-7.2``.

The OpenTelemetry Operator gives every process of a container the same id. A back end then keeps one series for all of
them, and each overwrites the others. The number is the lowest that no living worker has, so a worker that replaces
another takes its place. Where the parent cannot hand a number over (forkserver, a parent without this package) it is a
short random part.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from vibevoice_otel import forking
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.sdk import identity

PART = "telling workers apart"
#: From the parent to the worker that it starts: the worker's number, a space, and the id that the parent was given.
HANDED = "_VIBEVOICE_OTEL_WORKER"
#: What multiprocessing puts on the command line of a child that it spawns.
SPAWNED = "--multiprocessing-fork"


class WorkerIdentity:
    """Numbers the workers that this process starts, and takes its own number if it is one.

    Args:
        hooks: where what starts workers is hooked.
        providers: the tracer, meter and logger provider, whose resources are changed before the first measurement.
    """

    def __init__(self, hooks: Hooks, providers: Callable[[], Iterable[object]]) -> None:
        self._hooks = hooks
        self._providers = providers
        self._lock = threading.Lock()
        self._own = ""  # this worker's number and a dot, for the workers of a worker
        self._starting: str | None = None
        self._alive: dict[int, Callable[[], bool]] = {}
        self._given = ""

    def instrument(self) -> None:
        """Take this process's number, and hook what starts workers where there is an id to tell apart."""
        self._given = identity.given_id(self._providers())
        handed, _, of = os.environ.pop(HANDED, "").partition(" ")
        if self._given and SPAWNED in sys.orig_argv and (not handed or of == self._given):
            self._take(handed)
        if not self._given:
            return
        self._hooks.on_import("multiprocessing.process", self._multiprocessing)
        self._hooks.on_import("gunicorn.arbiter", self._gunicorn)
        forking.renew_in_child(self._forked)

    def _take(self, number: str) -> None:
        number = number or secrets.token_hex(2)
        self._own = f"{number}."
        identity.number(self._providers(), self._given, number)

    def _forked(self) -> None:
        self._lock = threading.Lock()
        self._alive.clear()
        started, self._starting = self._starting, None
        os.environ.pop(HANDED, None)
        if started is not None or any("multiprocessing.forkserver" in each for each in sys.orig_argv):
            self._take(started or "")

    def _multiprocessing(self, module: ModuleType) -> None:
        self._hooks.replace_in(module, "BaseProcess", "start", self._start, PART)

    def _start(self, original: Callable[..., Any], child: Any, /, *args: Any, **kwargs: Any) -> Any:
        if getattr(child, "_start_method", None) == "forkserver":  # its environment is of another time
            return original(child, *args, **kwargs)
        with self._numbered(lambda: _lives(child)):
            return original(child, *args, **kwargs)

    def _gunicorn(self, module: ModuleType) -> None:
        self._hooks.replace_in(module, "Arbiter", "spawn_worker", self._spawn_worker, PART)

    def _spawn_worker(self, original: Callable[..., Any], master: Any, /, *args: Any, **kwargs: Any) -> Any:
        pids: list[int] = []
        with self._numbered(lambda: bool(pids) and pids[0] in master.WORKERS):
            pid = original(master, *args, **kwargs)
            pids.append(pid)
        return pid

    @contextmanager
    def _numbered(self, alive: Callable[[], bool]) -> Iterator[None]:
        """While a worker is started: its number stands where it will look. ``alive`` says later whether it still has
        it.
        """
        with self._lock:
            self._alive = {number: lives for number, lives in self._alive.items() if lives()}
            free = next(number for number in range(1, len(self._alive) + 2) if number not in self._alive)
            self._starting = f"{self._own}{free}"
            os.environ[HANDED] = f"{self._starting} {self._given}"
            try:
                yield
            finally:
                self._starting = None
                os.environ.pop(HANDED, None)
            self._alive[free] = alive


def _lives(child: Any) -> bool:
    try:
        return bool(child.is_alive())
    except (ValueError, AssertionError):  # closed, or another process's
        return False
