"""The kinds of intervals that every frame has."""

from __future__ import annotations

from enum import IntEnum


class Leaf(IntEnum):
    """Intervals that recur in every frame (or text window); each has a column of its own."""

    PREFILL = 0
    LM_POSITIVE = 1
    LM_NEGATIVE = 2
    DECODE = 3
    SEMANTIC_ENCODE = 4
    CONNECTOR = 5
