"""Which classes are VibeVoice models: told by what a class has, wherever its module lies and whatever it is called.

Imports no model and no recorder: a program that never speaks pays a look at each of its model classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from types import ModuleType
from typing import Any

from vibevoice_otel.hooks.hooks import Hooks

#: Modules whose models adapters know by name.
KNOWN = (
    "vibevoice.modular.modeling_vibevoice_streaming_inference",
    "vibevoice.modular.modeling_vibevoice_inference",
    "transformers.models.vibevoice.",
)


class Kind(Enum):
    """The generation loop that a model class has."""

    REALTIME = "realtime"  # upstream's: forward_lm reads a window of text, forward_tts_lm makes speech of it
    LONGFORM = "longform"  # upstream's: one language model, its forward
    WINDOWED = "windowed"  # transformers' realtime: forward_lm, then forward; frames are told by the scheduler


def kind(candidate: Any) -> Kind | None:
    """What ``candidate`` is, None where it is no class of such a model."""
    if not isinstance(candidate, type) or not callable(getattr(candidate, "generate", None)):
        return None
    has = {
        name for name in ("sample_speech_tokens", "forward_lm", "forward_tts_lm", "_sample") if hasattr(candidate, name)
    }
    if "sample_speech_tokens" in has:
        return Kind.REALTIME if has >= {"forward_lm", "forward_tts_lm"} else Kind.LONGFORM
    return Kind.WINDOWED if has >= {"forward_lm", "_sample"} else None


def among(module: ModuleType, wanted: Kind) -> type | None:
    """The class of ``module``'s own that is a model of this kind."""
    for found in vars(module).values():
        if kind(found) is wanted and getattr(found, "__module__", None) == module.__name__:
            return found  # type: ignore[no-any-return]
    return None


class ModelWatch:
    """Tells of every model class as it is defined, by its base: transformers' ``PreTrainedModel``.

    Args:
        on_drop: told of hooks that fail.
        on_model: called with each class that is a VibeVoice model, and what it is.
    """

    def __init__(self, on_drop: Callable[[str, str, int], None], on_model: Callable[[type, Kind], None]) -> None:
        self.hooks = Hooks("models", on_drop)
        self._on_model = on_model

    def instrument(self) -> None:
        self.hooks.on_import("transformers.modeling_utils", self._attach)

    def _attach(self, module: ModuleType) -> None:
        base = module.PreTrainedModel
        if isinstance(vars(base).get("__init_subclass__"), classmethod):
            self.hooks.replace(base, "__init_subclass__", self._defined, "models of forks")
        self.hooks.replace(base, "from_pretrained", self._loaded, "models of forks")
        for found in _subclasses(base):
            self._consider(found)

    def _defined(self, original: Callable[..., Any], cls: type, /, **kwargs: Any) -> None:
        original(cls, **kwargs)
        self._consider(cls)

    def _loaded(self, original: Callable[..., Any], cls: type, /, *args: Any, **kwargs: Any) -> Any:
        self._consider(cls)
        return original(cls, *args, **kwargs)

    def _consider(self, found: type) -> None:
        what = kind(found)
        if what is not None and not found.__module__.startswith(KNOWN):
            self._on_model(found, what)


def _subclasses(base: type) -> Iterator[type]:
    below: list[type] = base.__subclasses__()
    for each in below:
        yield each
        yield from _subclasses(each)
