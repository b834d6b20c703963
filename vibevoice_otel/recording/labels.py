"""Bounded label values: whatever a client sends, the number of series stays within the settings."""

from __future__ import annotations

import math
from collections.abc import Iterable

from vibevoice_otel.semconv import OTHER
from vibevoice_otel.settings import Settings


class Bounds:
    """Turns what was used into metric attribute values."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._voices: set[str] = set()

    @property
    def voices(self) -> tuple[str, ...]:
        """The voices that have a label of their own, sorted."""
        return tuple(sorted(self._voices))

    def learn_voices(self, names: Iterable[str]) -> tuple[str, ...]:
        """Take over the service's own list; returns the names that are new. Names past ``max_voices`` stay 'other'."""
        fresh = []
        for name in names:
            if name not in self._voices and len(self._voices) < self._settings.max_voices and isinstance(name, str):
                self._voices.add(name)
                fresh.append(name)
        return tuple(fresh)

    def voice(self, name: str | None) -> str:
        return name if name in self._voices and name is not None else OTHER

    def cfg(self, value: float | None) -> str:
        """Rounded to 0.1: '1.5', '2.0'; 'other' when unknown, not finite, negative or above ``max_cfg``."""
        if value is None or not math.isfinite(value) or not 0 <= value <= self._settings.max_cfg:
            return OTHER
        return f"{round(value, 1):.1f}"

    def steps(self, value: int | None) -> str:
        """'5'; '50+' above ``max_steps``; 'other' when unknown or not positive."""
        if value is None or value < 1:
            return OTHER
        cap = self._settings.max_steps
        return str(value) if value <= cap else f"{cap}+"

    def step_labels(self) -> tuple[str, ...]:
        """The label of every step index: '0' ... then one for all above ``max_steps``."""
        cap = self._settings.max_steps
        return (*(str(i) for i in range(cap)), f"{cap}+")
