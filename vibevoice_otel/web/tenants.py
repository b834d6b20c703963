"""Whose request it is, for showback: a name that the operator knows, or ``other``.

Baggage comes from the client, which may write anything there: it names a tenant only where the operator has listed the
name. Where no client may pass for another, the operator's own hook tells the tenant from the authenticated caller.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from vibevoice_otel.semconv import OTHER
from vibevoice_otel.settings import Settings

logger = logging.getLogger(__name__)
#: A longer header, or name, is not read.
MAX_HEADER, MAX_NAME = 8192, 64
#: Names that a hook may give; the rest is 'other'.
MAX_NAMES = 1000
Hook = Callable[[Mapping[str, Any]], str | None]


def baggage(scope: Mapping[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    """The members of a request's W3C baggage as (key, value), their properties left out."""
    for name, value in scope.get("headers", ()):
        if name == b"baggage" and len(value) <= MAX_HEADER:
            for member in value.split(b","):
                key, _, text = member.partition(b";")[0].partition(b"=")
                yield key.strip(), text.strip()


class Tenants:
    """Names the tenant of a request, by the operator's hook or else by a baggage member with a listed name."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.tenant_baggage.encode()
        self._listed = {name.encode(): name for name in settings.tenants}
        self._path = settings.tenant_hook
        self._hook: Hook | None = None
        self._given: set[str] = set()

    def of(self, scope: Mapping[str, Any]) -> str | None:
        """The tenant of a request whose ASGI scope this is, at its end; None where the operator asks for none."""
        if self._path:
            return self._by_hook(scope)
        if not self._key or not self._listed:
            return None
        named = next((text for key, text in baggage(scope) if key == self._key), b"")
        return self._listed.get(unquote_to_bytes(named[: 3 * MAX_NAME]), OTHER)

    def _by_hook(self, scope: Mapping[str, Any]) -> str:
        if self._hook is None:
            module, _, function = self._path.partition(":")
            try:
                self._hook = getattr(importlib.import_module(module), function)
            except Exception as error:  # noqa: BLE001 - the service must never suffer from its telemetry
                logger.warning(
                    "VIBEVOICE_OTEL_TENANT_HOOK=%s cannot be loaded (%s); every tenant is 'other'",
                    self._path,
                    type(error).__name__,
                )
                self._hook = lambda _: None
        try:
            name = self._hook(scope)
        except Exception:  # noqa: BLE001 - the operator's own code, which knows what its failure means
            return OTHER
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            return OTHER
        if name not in self._given:
            if len(self._given) >= MAX_NAMES:
                return OTHER
            self._given.add(name)
        return name
