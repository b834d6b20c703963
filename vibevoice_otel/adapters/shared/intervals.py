"""Notes of what recurs in every frame: an operation's start and end, on the host's clock and the device's."""

from __future__ import annotations

from typing import Any

from vibevoice_otel.hooks.wrappers import After, Before
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.timeline import Run


def times(leaf: Leaf, *, outside_prefill: bool = False) -> tuple[Before, After]:
    """Notes for :meth:`Hooks.note` that time each call as ``leaf``; ``outside_prefill`` leaves out those inside one,
    whose time it is.
    """

    def enter(run: Run, _args: Any, _kwargs: Any) -> tuple[Leaf, int] | None:
        if outside_prefill and run.prefilling:
            return None
        if run.device is not None:
            run.device.enter(leaf)
        return leaf, now()

    return enter, Run.leave
