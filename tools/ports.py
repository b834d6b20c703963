"""TCP ports on loopback that no other test, benchmark or stack on this machine is given while this process lives."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

#: Below the range from which Linux takes the ports of outgoing connections (32768 and up), above the well-known
#: services.
LOWEST, HIGHEST = 15_000, 32_000
#: Descriptors of files whose locks say that a port is given away; the kernel lets go of them when the process ends,
#: however it ends.
_held: list[int] = []


def free_port() -> int:
    """A port that nothing listens on and that no other process has from here.

    Raises:
        OSError: when 1,000 tries find none.
    """
    # Of each user's own: what root has made there, nobody else can open.
    folder = Path(tempfile.gettempdir()) / f"vibevoice-otel-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for _ in range(1000):
        port = random.randint(LOWEST, HIGHEST)
        lock = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(lock)
            continue
        _held.append(lock)
        return port
    raise OSError(f"no free port between {LOWEST} and {HIGHEST}")


def free_ports(count: int) -> list[int]:
    """So many different free ports."""
    return [free_port() for _ in range(count)]
