"""What every adapter of a model has: the recorder, and hooks that note for the run that their thread makes."""

from __future__ import annotations

from typing import ClassVar

from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import thread


class ModelAdapter:
    """Attaches as the modules of ``package`` are imported: upstream's, or a copy's under another name."""

    name: ClassVar[str]

    def __init__(self, recorder: Recorder, package: str = "vibevoice") -> None:
        self._recorder = recorder
        self._package = package
        self.hooks = Hooks(self.name, recorder.on_drop, thread)
