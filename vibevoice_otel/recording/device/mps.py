"""Apple's GPU through ``torch.mps``: it tells of its memory; its events cannot be polled, so times stay the host's."""

from __future__ import annotations

import sys
from typing import Any

from vibevoice_otel.recording.device.interface import Device, Event, Generations, Memory, Pool, Stream


class MpsDevice(Device):
    """The one GPU there is."""

    id = "0"

    def __init__(self, mps: Any) -> None:
        self._mps = mps
        self.pool = Pool(self._event, limit=0)
        self.generations = Generations()

    def _event(self) -> Event:
        raise NotImplementedError("torch.mps has no event that can be queried without waiting")

    def stream(self) -> Stream:
        raise NotImplementedError("torch.mps has no streams")

    def allocated(self) -> int:
        return int(self._mps.current_allocated_memory())

    def memory(self) -> Memory:
        limit = getattr(self._mps, "recommended_max_memory", None)
        return Memory(
            self.allocated(),
            int(self._mps.driver_allocated_memory()),
            limit=int(limit()) if limit is not None else None,
        )


def open_device(_index: int) -> Device:
    """The device that a model found itself on."""
    return MpsDevice(sys.modules["torch"].mps)
