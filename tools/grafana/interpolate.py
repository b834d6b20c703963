"""Dashboard variables put into a query's place, as Grafana does it; None is All."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

Chosen = Mapping[str, Sequence[str] | None]
_SPECIAL: Final = re.compile(r"[\\^$*+?.()|\[\]{}/]")


def as_regex(values: Sequence[str]) -> str:
    """``${name:regex}`` of these values."""
    escaped = [_SPECIAL.sub(lambda found: "\\" + found[0], value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def traceql(expression: str, chosen: Chosen) -> str:
    """A TraceQL expression as Tempo gets it. A variable that is not named is All,
    as those that have an ``allValue``.
    """

    def value(found: re.Match[str]) -> str:
        values = chosen.get(found[1])
        if values is None:
            return ".*"
        return as_regex(values) if found[2] == "regex" else values[0]

    return re.sub(r"\$\{(\w+)(?::(\w+))?\}", value, expression)
