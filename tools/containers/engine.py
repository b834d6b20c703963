"""A Docker engine of this run's own: started as root, apart from any other, and taken out again without a trace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, Literal

from tools.stack.process import STOP_S, NotReadyError, Process, Running

#: What the engine may give to networks: of the range kept for benchmarks (RFC 2544), so no route of the host is
#: shadowed.
POOL: Final = "198.18.0.0/16"
FORWARDING: Final = Path("/proc/sys/net/ipv4/ip_forward")
INTERFACES: Final = Path("/sys/class/net")
START_S: Final = 60.0


class LeftoverError(RuntimeError):
    """Something of the engine outlived it; the message names it."""


def may_start() -> bool:
    """Whether an engine of our own may be started: VIBEVOICE_OTEL_CI_DOCKER=1, or CI=true as root."""
    asked = os.environ.get("VIBEVOICE_OTEL_CI_DOCKER", "")
    return os.geteuid() == 0 and (asked == "1" or (asked == "" and os.environ.get("CI") == "true"))


def running(host: str | None = None) -> bool:
    """Whether an engine answers at ``host`` (default: where the docker command looks by itself)."""
    if shutil.which("docker") is None:
        return False
    environment = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
    done = subprocess.run(["docker", "info"], env=environment, capture_output=True, timeout=30, check=False)
    return done.returncode == 0


class Engine(Running):
    """A running dockerd; ``host`` is its DOCKER_HOST. A context manager that ends it.

    Data, sockets and state lie in a folder of this run alone. It lives in a mount namespace of its own, whose root has
    the ``propagation`` asked for: ``private`` is what Docker Desktop, WSL and containers have, ``shared`` what a plain
    Linux host has.

    Raises:
        FileNotFoundError: a program is missing; the message names its package.
        NotReadyError: dockerd ended early or never answered.
        LeftoverError: from ``stop``: something outlived the engine.
    """

    def __init__(self, propagation: Literal["private", "shared"] = "private") -> None:
        for program, package in (("dockerd", "docker.io"), ("docker", "docker.io"), ("iptables-save", "iptables")):
            if shutil.which(program) is None:
                raise FileNotFoundError(f"{program} is missing: install {package} (Debian, Ubuntu: apt-get install)")
        self._folder = Path(tempfile.mkdtemp(prefix="vibevoice-otel-docker-"))
        self._tables, self._forwarding = _tables(), FORWARDING.read_text()
        self._interfaces = set(INTERFACES.iterdir())
        self.host = f"unix://{self._folder / 'sock'}"
        command = [
            *("unshare", "--mount", "--propagation", propagation),
            *("dockerd", "--data-root", str(self._folder / "data"), "--exec-root", str(self._folder / "exec")),
            *("--pidfile", str(self._folder / "pid"), "--host", self.host, "--group", "root"),
            *("--bridge", "none", "--default-address-pool", f"base={POOL},size=24"),
        ]
        self.process = Process("dockerd", command, self._folder)
        deadline = time.monotonic() + START_S
        while not running(self.host):
            if not self.process.running or time.monotonic() > deadline:
                tail = self.process.tail()
                self.stop()
                raise NotReadyError(f"dockerd does not answer. The end of its log:\n{tail}")
            time.sleep(0.2)

    def stop(self) -> int:
        """End the engine and what it runs, by its pid; put packet filter and forwarding back;
        see that nothing is left.
        """
        if self.process.running:
            os.kill(self.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 4 * STOP_S  # it ends its containers first
        while self.process.running and time.monotonic() < deadline:
            time.sleep(0.1)
        code = self.process.stop()
        _restore(self._tables)
        FORWARDING.write_text(self._forwarding)
        left = self._left()
        if left:
            raise LeftoverError(f"the engine in {self._folder} ended with code {code} and left {', '.join(left)}")
        shutil.rmtree(self._folder)
        return code

    def _left(self) -> list[str]:
        name, own = str(self._folder), os.getpid()
        left = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # ended meanwhile
                continue
            if name in command and int(entry.name) != own:
                left.append(f"process {entry.name} ({command[:80]})")
        left += [
            f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line
        ]
        left += [f"interface {each.name}" for each in set(INTERFACES.iterdir()) - self._interfaces]
        if _rules(_tables()) != _rules(self._tables):
            left.append("rules of the packet filter")
        return left


def _tables() -> dict[str, str]:
    """What iptables-save says, for IPv4 and, where the kernel has it, IPv6."""
    found = {}
    for command in ("iptables", "ip6tables"):
        done = subprocess.run([f"{command}-save"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found[command] = done.stdout
    return found


def _rules(saved: dict[str, str]) -> list[str]:
    """The lines that decide: no comment, no counter, no empty table."""
    lines = [line.split(" [")[0] for text in saved.values() for line in text.splitlines()]
    return [line for line in lines if line.startswith("-") or (line.startswith(":") and not line.endswith(" ACCEPT"))]


def _restore(saved: dict[str, str]) -> None:
    """Put the packet filter back: what was there as it was, what was not there emptied."""
    now = _tables()
    for command, text in saved.items():
        emptied: list[str] = []
        for table, body in _by_table(now.get(command, "")).items():
            if table not in _by_table(text):
                builtin = [line.split()[0] for line in body if line[:1] == ":" and line.split()[1] != "-"]
                emptied.append("\n".join((f"*{table}", *(f"{chain} ACCEPT [0:0]" for chain in builtin), "COMMIT", "")))
        wanted = "".join((text, *emptied))
        if wanted:
            subprocess.run([f"{command}-restore"], input=wanted, text=True, check=True)


def _by_table(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            found[line[1:]] = []
        elif found and not line.startswith("#"):
            found[next(reversed(found))].append(line)
    return found
