"""A diffusion scheduler's hooks, shared by every model: the hottest code of all.

A step runs from the end of set_timesteps, or of the step before, to the return of ``step``: the diffusion head and the
guidance mix run before ``step``, which alone is only the solver's arithmetic. So one clock read a step is all that is
needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vibevoice_otel.hooks.wrappers import traced
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.timeline import Run, thread

if TYPE_CHECKING:
    from vibevoice_otel.hooks.hooks import Hooks


def hook_scheduler(hooks: Hooks, scheduler: type) -> None:
    """Hook a scheduler class's ``set_timesteps`` and ``step``."""
    hooks.note(scheduler, "set_timesteps", "the start of each frame's first diffusion step", None, _first_step_begins)
    hooks.replace_hot(scheduler, "step", lambda original: _step(hooks, original), "vibevoice.diffusion.step")


def _first_step_begins(run: Run, _token: Any, _result: Any) -> None:
    at = now()
    run.bases.append(at)
    if run.device is not None:
        run.device.base(at)


def _step(hooks: Hooks, original: Callable[..., Any]) -> Callable[..., Any]:
    clock, local, compiling = now, thread, traced()

    # The exact positional signature: every model calls it so, and binding *args would cost more than the note itself.
    def step(self: Any, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            result = original(self, model_output, timestep, sample, *args, **kwargs)
        else:  # a third less time than to unpack nothing
            result = original(self, model_output, timestep, sample)
        note = local.step
        if note is not None and not compiling():
            try:
                note(clock())
            except Exception as error:  # noqa: BLE001 - a step is taken whatever its note meets; a try costs nothing until it fails
                hooks.failed("the diffusion scheduler's step", error)
        return result

    return step
