"""The memory that the page's tile shows: each GPU's, else the process's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

STATM = Path("/proc/self/statm")


def read() -> list[dict[str, Any]]:
    """One entry a device: ``device`` ("GPU 0" or "process"), ``used`` bytes, ``total`` bytes or None. Never initialises
    CUDA.
    """
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_available() and cuda.is_initialized():
        return [
            {
                "device": f"GPU {i}",
                "used": cuda.memory_allocated(i),
                "total": cuda.get_device_properties(i).total_memory,
            }
            for i in range(cuda.device_count())
        ]
    if not STATM.exists():  # not Linux
        return []
    resident = int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [{"device": "process", "used": resident, "total": total}]
