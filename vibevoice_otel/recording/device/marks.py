"""What the hot path writes down on a device: one mark for each moment."""

from __future__ import annotations

from typing import NamedTuple

from vibevoice_otel.recording.device.interface import Event
from vibevoice_otel.recording.interval import Leaf

#: Kinds of marks; a leaf's are its own number times two, and the next one.
FRAME, BASE, STEP, SEEN = -4, -3, -2, -1


def entered(leaf: Leaf) -> int:
    return 2 * leaf


def left(leaf: Leaf) -> int:
    return 2 * leaf + 1


class Mark(NamedTuple):
    """``key`` is the host's time that names the operation in the timeline's columns; ``host`` a time just before the
    event was put in.

    ``event`` is None where none might be recorded. ``dry`` says that the stream had no work left then. SEEN marks say
    that at ``host`` the event before them had been passed. ``growth`` is what a step did to allocated memory, None
    where it was not read, or other requests may have changed it.
    """

    kind: int
    key: int
    host: int
    event: Event | None
    dry: bool
    growth: int | None = None
