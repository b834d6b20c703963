"""An operation's start and end: of what recurs in every frame on the host's clock and the device's, of a cold one on
the host's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def timed(note: Callable[[int, int, str | None], object]) -> Iterator[None]:
    """Time the block: ``note`` is given its start, its end, and the name of the exception that ended it, if one did."""
    started, error = now(), None
    try:
        yield
    except BaseException as failure:
        error = type(failure).__name__
        raise
    finally:
        note(started, now(), error)
