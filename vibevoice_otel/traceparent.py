"""A W3C traceparent in the query string: for browsers, whose WebSocket can set no header, and for clients that were
given a URL alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PARAMETER = b"traceparent"
_VALID = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Caller:
    """The span that the caller names as its own."""

    trace_id: int
    span_id: int


def adopt(query: bytes, headers: Headers) -> tuple[Headers, Caller | None]:
    """The headers with the traceparent of the query string, and whose it is.

    A value that is not valid, or given twice, does not count; a header that is there already wins.
    """
    own = list(headers)
    parts = (part.partition(b"=") for part in query.split(b"&"))
    values = [value for name, _, value in parts if name.lower() == PARAMETER]
    match = _VALID.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or any(name.lower() == PARAMETER for name, _ in own):
        return own, None
    return [*own, (PARAMETER, values[0])], Caller(int(match[1], 16), int(match[2], 16))


class Adoption:
    """Whether a traceparent in the query of a WebSocket is the caller's: while the live page is served, or by the
    operator's setting.

    The scope stays as it came. OpenTelemetry's layers, and we where there is none, read it with the header added.
    """

    def __init__(self) -> None:
        self._wanted_by: set[int] = set()

    def begin(self, asker: object) -> None:
        """Adopt until ``asker`` ends it."""
        self._wanted_by.add(id(asker))

    def end(self, asker: object) -> None:
        """``asker`` has no more need of it. Idempotent."""
        self._wanted_by.discard(id(asker))

    def caller(self, scope: Mapping[str, Any]) -> Caller | None:
        """The caller that the query of ``scope`` names, None where it names none that counts."""
        return self._adopt(scope)[1]

    def headers(self, scope: Mapping[str, Any]) -> Headers:
        """The headers of ``scope``, with the traceparent of its query where that counts."""
        return self._adopt(scope)[0]

    def _adopt(self, scope: Mapping[str, Any]) -> tuple[Headers, Caller | None]:
        query, headers = scope.get("query_string", b""), scope.get("headers", ())
        if not self._wanted_by or scope["type"] != "websocket" or PARAMETER not in query.lower():
            return headers, None
        return adopt(query, headers)


adoption = Adoption()
