"""Device time: what an accelerator really did, found out without making it wait.

A model's device type names what opens it (:data:`OPENERS`); for a type that is not there, a CPU for one, times are the
host's and there is no memory to tell of.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from vibevoice_otel.recording.device import cuda, mps
from vibevoice_otel.recording.device.interface import Device, Memory
from vibevoice_otel.recording.device.notes import StreamNotes
from vibevoice_otel.recording.timeline import Run, thread

logger = logging.getLogger(__name__)

__all__ = ["OPENERS", "Device", "Memory", "StreamNotes", "attach", "known", "opened"]

#: Device type, as torch names it -> what opens the device of an index.
OPENERS: dict[str, Callable[[int], Device]] = {"cuda": cuda.open_device, "mps": mps.open_device}
_devices: dict[tuple[str, int], Device] = {}


def opened(kind: str, index: int) -> Device | None:
    """The device, opened once; None for a type without a clock and an allocator of its own."""
    if kind not in OPENERS:
        return None
    # Of two threads that open one at once, both get the one that was kept.
    return _devices.get((kind, index)) or _devices.setdefault((kind, index), OPENERS[kind](index))


def known() -> list[Device]:
    """The devices in use: those on which a model generated, and every GPU on which torch has allocated."""
    for index in cuda.in_use():
        opened("cuda", index)
    return list(_devices.values())


def attach(run: Run, model: Any) -> StreamNotes | None:
    """Note what the device of ``model`` (a torch module) does in the generation that begins on this thread, if it has a
    clock or an allocator.

    A model that is spread over several devices is timed by the host: an event of one device tells nothing of the
    others. A failure costs the device's share of the telemetry and one line in the log, nothing else.
    """
    try:
        parameters = getattr(model, "parameters", None)
        first = next(iter(parameters()), None) if callable(parameters) else None
        spread = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
        device = None if first is None or spread else opened(first.device.type, first.device.index or 0)
        if device is None:
            return None
        notes = StreamNotes(run, device)
        notes.begin()
        run.device = notes
        thread.step = notes.append
    except Exception:
        logger.warning(
            "the device cannot be observed; times of this generation are the host's (clock=host)", exc_info=True
        )
        return None
    return notes
