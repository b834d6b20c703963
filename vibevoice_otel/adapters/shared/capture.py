"""CUDA graphs and torch.compile: while a graph is captured nothing of ours touches the device; whose request met either
is noted.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.device.cuda import captures
from vibevoice_otel.recording.timeline import Timeline, thread
from vibevoice_otel.semconv import WarmUp


def hook_captures(hooks: Hooks, module: ModuleType) -> None:
    """Hook the beginning and the end of a capture, wherever in the process it is made (torch.cuda.graph,
    torch.compile's own).
    """
    graph = getattr(module, "CUDAGraph", None)
    if isinstance(graph, type) and hasattr(graph, "capture_begin"):
        hooks.replace(graph, "capture_begin", _capture_begin, "knowing that a CUDA graph is being captured")
        hooks.replace(graph, "capture_end", captures.watch_end, "knowing that a CUDA graph has been captured")


def hook_compilations(hooks: Hooks, module: ModuleType) -> None:
    """Hook the beginning of a compilation by torch.compile (``torch._dynamo.callback``), the first and every one after
    it.
    """
    handler = getattr(module, "CompilationCallbackHandler", None)
    if isinstance(handler, type) and hasattr(handler, "run_start_callbacks"):
        part = "requests that met a compilation"
        hooks.note(handler, "run_start_callbacks", part, _compiles, find=lambda _handler: thread.timeline)


def _compiles(timeline: Timeline, _args: Any, _kwargs: Any) -> None:
    timeline.warm_up.append(WarmUp.COMPILE)


def _capture_begin(original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    if thread.timeline is not None:
        thread.timeline.warm_up.append(WarmUp.CAPTURE)
    return captures.watch_begin(original, *args, **kwargs)
