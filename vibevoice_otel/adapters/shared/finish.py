"""What ``generate`` returns says why it ended; it may lie on a device, which is not waited for."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vibevoice_otel.recording.device.cuda import captures
from vibevoice_otel.recording.finish import End, Ending


def ending(model: Any, kwargs: dict[str, Any], result: Any) -> Ending | None:
    """How a generation by ``model`` says that it ended, from its ``result``; None where the result does not say."""
    with contextlib.suppress(Exception):  # a result of a kind that we do not know says nothing
        return _ending(model, kwargs, result)
    return None


def _ending(model: Any, kwargs: dict[str, Any], result: Any) -> Ending | None:
    flags = getattr(
        result, "reach_max_step_sample", None
    )  # upstream's models: True for each sample that the budget cut off
    if flags is not None:
        return _later(flags, lambda values: End.LENGTH if any(values) else End.NOT_LENGTH)
    tokens = getattr(result, "sequences", None)  # transformers' model, with return_dict_in_generate
    config = kwargs.get("generation_config") or getattr(model, "generation_config", None)
    over = {each for name in ("eos_token_id", "pad_token_id") for each in _ids(getattr(config, name, None))}
    if tokens is None or not over:
        return None
    return _later(tokens[:, -1], lambda values: End.SPOKEN if over.issuperset(values) else End.UNFINISHED)


def _ids(value: Any) -> tuple[int, ...]:
    return () if value is None else tuple(value) if isinstance(value, list | tuple) else (int(value),)


def _later(tensor: Any, meaning: Callable[[Sequence[object]], End]) -> Ending | None:
    """Reads later, on another thread and without waiting, what the values of ``tensor`` mean; None where that cannot be
    done.
    """
    if tensor.is_cpu:
        return lambda: meaning(_list(tensor))
    if tensor.device.type != "cuda" or captures.active:
        return None
    torch = sys.modules["torch"]
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)  # to unpinned memory the copy would wait
    host.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tensor.device))

    def read() -> End | None:
        with captures.reading() as allowed:
            return meaning(_list(host)) if allowed and copied.query() else None

    return read


def _list(tensor: Any) -> list[object]:
    values: list[object] = tensor.reshape(-1).tolist()
    return values
