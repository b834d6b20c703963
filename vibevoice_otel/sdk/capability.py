"""What this package takes from the insides of an OpenTelemetry SDK, each tried once on a provider made for the purpose.

A release may rename, move or change any of it. Then the public API serves, one warning says so, and ``doctor`` shows
it.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Unknown(Exception):  # noqa: N818 - not an error: the public API serves
    """Internals of the SDK that this package does not support."""


class Capability:
    """One thing that the SDK's private state makes possible.

    Args:
        name: what it is, for people.
        probe: does it on a throw-away provider; any exception says that it cannot be done.
        otherwise: what happens without it, and what that costs.
    """

    def __init__(self, name: str, probe: Callable[[], object], otherwise: str) -> None:
        self.name = name
        self._probe = probe
        self._otherwise = otherwise
        self._works: bool | None = None
        self._reason = ""

    def works(self) -> bool:
        """Whether it can be done here; the first call tries it."""
        if self._works is None:
            self._works = False  # another thread that asks meanwhile uses the public API
            try:
                self._probe()
            except Exception as error:  # noqa: BLE001 - whatever it is, the public API serves
                self.failed(error)
            else:
                self._works = True
        return self._works

    def failed(self, error: Exception) -> None:
        """It could not be done after all: the public API serves from now on, and one warning says so."""
        self._works = False
        if not self._reason:
            self._reason = f"{type(error).__name__}: {error}"
            logger.warning("%s. A newer vibevoice-otel may support this release.", self.explain())

    def explain(self) -> str:
        """One sentence for ``vibevoice-otel doctor``."""
        if self.works():
            return f"{self.name}: supported"
        return (
            f"{self.name}: unsupported opentelemetry-sdk internals "
            f"({importlib.metadata.version('opentelemetry-sdk')}: {self._reason}); {self._otherwise}"
        )
