"""torch.compile: hooks inside a compiled region are left out of its graph, which stays whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vibevoice_otel.adapters.shared.diffusion import hook_scheduler
from vibevoice_otel.adapters.shared.intervals import times
from vibevoice_otel.adapters.transformers import _positive_begins
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.clock import Anchor, now
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.timeline import Run, Timeline, bound, thread


class Model:
    def set_timesteps(self, steps: int) -> None: ...

    def step(self, output: torch.Tensor, timestep: int, sample: torch.Tensor) -> torch.Tensor:
        del timestep
        return output + sample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3


CALLS: dict[str, Callable[[Model, Any], Any]] = {
    "step": lambda model, x: model.step(x, 0, x) * 2,
    "forward": lambda model, x: model.forward(x) * 2,
    "decode": lambda model, x: model.decode(x) * 2,
}


@pytest.mark.parametrize("call", CALLS)
def test_a_graph_that_must_be_whole_stays_whole(call: str) -> None:
    """fullgraph=True refuses what it cannot trace, a clock for one; within a request and outside the result is the bare
    one's.
    """
    function = CALLS[call]
    expected = function(Model(), torch.ones(2))
    own = type("Model", (Model,), {})
    hooks = Hooks("test", lambda *_: None, thread)
    hook_scheduler(hooks, own)
    hooks.note(own, "forward", "a pass", _positive_begins, Run.leave)
    hooks.note(own, "decode", "a decode", *times(Leaf.DECODE))
    timeline, model = Timeline(1, Anchor.take(), now()), own()
    for _ in range(2):
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: function(model, x), backend="eager", fullgraph=True)
        assert torch.equal(compiled(torch.ones(2)), expected)
        with bound(timeline):
            assert torch.equal(compiled(torch.ones(2)), expected)
    assert not timeline.runs[0].steps
    with bound(timeline):
        function(model, torch.ones(2))
    assert timeline.runs[0].steps or any(timeline.runs[0].leaves), "uncompiled, the same hooks do note"
