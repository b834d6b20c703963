"""A W3C traceparent in the query string, for browsers: their WebSocket cannot set a header."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PARAMETER = b"traceparent"
_VALID = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Caller:
    """The span that the caller says is his."""

    trace_id: int
    span_id: int


def adopt(query: bytes, headers: Headers) -> tuple[bytes, list[tuple[bytes, bytes]], Caller | None]:
    """The query string without any traceparent, the headers with it, and whose it is.

    A value that is not valid, or given twice, is dropped; a header that is there already wins.
    """
    kept: list[bytes] = []
    values: list[bytes] = []
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        (values if name.lower() == PARAMETER else kept).append(value if name.lower() == PARAMETER else part)
    own = list(headers)
    match = _VALID.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or any(name.lower() == PARAMETER for name, _ in own):
        return (b"&".join(kept) if values else query), own, None
    return b"&".join(kept), [*own, (PARAMETER, values[0])], Caller(int(match[1], 16), int(match[2], 16))
