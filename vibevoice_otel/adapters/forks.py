"""Models of forks: the same surface under another module, another name, or in transformers' own realtime port.

A model class is hooked as it is defined (surface.py). What its generation calls (scheduler, tokenizers, connectors,
audio queue) is hooked by the objects that the model holds when it generates; modules that lie where upstream's do are
hooked as upstream's.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from vibevoice_otel.adapters import longform, realtime, upstream
from vibevoice_otel.adapters.shared import links
from vibevoice_otel.adapters.shared.adapter import ModelAdapter
from vibevoice_otel.adapters.shared.audio_queue import hook_streamer
from vibevoice_otel.adapters.shared.diffusion import hook_scheduler
from vibevoice_otel.adapters.shared.generation import hook_generate
from vibevoice_otel.adapters.surface import Kind, kind
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Run, thread

#: Where upstream's package has its models, below its root.
MODULAR = ".modular."
CONNECTORS = ("acoustic_connector", "semantic_connector", "multi_modal_projector")


class ForksAdapter(ModelAdapter):
    """Attaches to the model classes that it is told of."""

    name = "forks"

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._seen: set[type] = set()
        self._packages: set[str] = set()

    def instrument(self) -> None:
        """Attach to the class that the operator named (``VIBEVOICE_OTEL_MODEL``)."""
        module, _, name = self._recorder.settings.model.partition(":")
        if module:
            self.hooks.on_import(module, lambda loaded: self._named(loaded, name))

    def _named(self, module: ModuleType, name: str) -> None:
        model = self.hooks.owner(module, name, "everything that the model does (VIBEVOICE_OTEL_MODEL)")
        if model is not None:
            self.attach(model, kind(model) or Kind.LONGFORM)

    def attach(self, model: type, what: Kind) -> None:
        """Hook a model class. What it inherits from one that is hooked already is counted there."""
        if model in self._seen:
            return
        self._seen.add(model)
        self.hooks.modules.append(model.__module__)
        root = model.__module__.partition(MODULAR)[0]
        if MODULAR in model.__module__ and root not in self._packages:
            self._packages.add(root)
            for adapter_of in (upstream.UpstreamAdapter, realtime.RealtimeAdapter, longform.LongFormAdapter):
                adapter = adapter_of(self._recorder, root)
                self.hooks.on_undo(adapter.hooks.undo)
                adapter.instrument_parts()
        if any(base in self._seen for base in model.__mro__[1:]):
            hook_generate(self.hooks, self._recorder, model, self._parts)  # its own, around its base's
        elif what is Kind.WINDOWED:
            self._windowed(model)
        else:
            upstream.hook_model(self.hooks, self._recorder, model, self._parts)
            (realtime if what is Kind.REALTIME else longform).hook_passes(self.hooks, model)

    def _windowed(self, model: type) -> None:
        """Transformers' vibevoice_realtime: its loop is ``_sample``, in which a frame begins with the scheduler's
        set_timesteps.
        """
        hook_generate(self.hooks, self._recorder, model, self._parts)
        upstream.hook_preparation(self.hooks, model)
        realtime.hook_passes(self.hooks, model, speech="forward")

    def _parts(self, model: Any, kwargs: dict[str, Any]) -> None:
        """The objects that a generation works with: their classes are hooked the first time."""
        inner = getattr(model, "model", model)
        config = kwargs.get("generation_config")
        schedulers = (
            getattr(inner, "noise_scheduler", None),
            kwargs.get("noise_scheduler"),
            getattr(config, "noise_scheduler", None),
        )
        acoustic = getattr(inner, "acoustic_tokenizer", None) or getattr(inner, "audio_tower", None)
        semantic = getattr(inner, "semantic_tokenizer", None)
        connectors = (getattr(inner, name, None) for name in CONNECTORS)
        for hook, parts in (
            (hook_scheduler, schedulers),
            (upstream.hook_decode, (acoustic,)),
            (upstream.hook_semantic, (semantic,)),
            (upstream.hook_connector, connectors),
        ):
            for part in filter(None, parts):
                hook(self.hooks, type(part))
        streamer = kwargs.get("audio_streamer") or kwargs.get("streamer")
        module = sys.modules.get(type(streamer).__module__)
        if streamer is not None and hasattr(module, "AudioSampleIterator"):
            assert module is not None
            hook_streamer(self.hooks, module)
            timeline = thread.timeline
            if timeline is not None and links.of(streamer) is None:  # made before its class was known
                links.mark(streamer, timeline)
        _settings(thread.run, kwargs, config)


def _settings(run: Run | None, kwargs: dict[str, Any], config: Any) -> None:
    """Cfg and steps, where ``generate`` is given them: transformers' names."""
    if run is None:
        return
    cfg = kwargs.get("cfg_scale", getattr(config, "cfg_scale", None))
    steps = kwargs.get("n_diffusion_steps", getattr(config, "n_diffusion_steps", None))
    if run.used.cfg is None and isinstance(cfg, int | float):
        run.used.cfg = float(cfg)
    if run.used.steps is None and isinstance(steps, int):
        run.used.steps = steps
