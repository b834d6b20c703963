"""Other processes on the card: they start at once, and say when they are ready."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.gpu import Subject

#: Starts another process of benchmarks.card; what it shall do is added.
WORKER = (sys.executable, "-m", "benchmarks.card", "--worker")


@contextmanager
def worker(*what: str) -> Iterator[subprocess.Popen[str]]:
    """Another process of this module, which has said that it is ready; ended with the block."""
    process = subprocess.Popen([*WORKER, *what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answer(process: subprocess.Popen[str]) -> list[str]:
    """The worker's next line, past whatever its libraries print, in words."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("worker "):
            return line.split()[1:]
    raise RuntimeError("the other process ended")


def ask(process: subprocess.Popen[str], command: str) -> None:
    assert process.stdin is not None
    process.stdin.write(command + "\n")
    process.stdin.flush()


def serve_worker(what: str, build: Callable[[], Subject]) -> None:
    """A worker's life. It says ``worker ready``; at a line ``burn`` then multiplies matrices without pause, and
    ``speak`` answers each ``go SECONDS`` with the frames that it made.
    """
    import torch

    if what == "burn":
        matrix = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
        print("worker ready", flush=True)
        sys.stdin.readline()
        while True:
            for _ in range(200):
                matrix = (matrix @ matrix).clamp(-1, 1)
            torch.cuda.synchronize()
    subject = build()
    subject.speak(4)
    print("worker ready", flush=True)
    for line in sys.stdin:
        seconds = float(line.split()[1])
        began, frames = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            subject.speak(4)
            frames += 4
        print(f"worker done {frames} {time.perf_counter() - began:.3f}", flush=True)
