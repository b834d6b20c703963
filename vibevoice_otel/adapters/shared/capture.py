"""CUDA graphs: while one is captured nothing of ours touches the device."""

from __future__ import annotations

from types import ModuleType

from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.device.cuda import captures


def hook_captures(hooks: Hooks, module: ModuleType) -> None:
    """Hook the beginning and the end of a capture, wherever in the process it is made (torch.cuda.graph, torch.compile's own)."""
    graph = getattr(module, "CUDAGraph", None)
    if isinstance(graph, type) and hasattr(graph, "capture_begin"):
        hooks.replace(graph, "capture_begin", captures.watch_begin, "knowing that a CUDA graph is being captured")
        hooks.replace(graph, "capture_end", captures.watch_end, "knowing that a CUDA graph has been captured")
