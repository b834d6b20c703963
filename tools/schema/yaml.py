"""A small YAML writer: mappings, sequences, text, numbers and booleans, in block style, the same text for the same value.

The package writes YAML in one place and reads it nowhere; that does not justify a dependency.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./]*(-[A-Za-z0-9_./]+)*\Z")
_RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def dump(value: object, comment: str = "") -> str:
    """The YAML text of ``value``, ending in a newline; each line of ``comment`` goes above it behind a #.

    Raises:
        TypeError: for a value of another kind.
    """
    head = [f"# {line}" for line in comment.splitlines()]
    return "\n".join([*head, *_block(value, 0)]) + "\n"


def _block(value: object, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _entry(f"{pad}{_scalar(key)}:", item, depth)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            if isinstance(item, Mapping) and item:
                lines = list(_block(item, depth + 1))
                yield f"{pad}- {lines[0].lstrip()}"
                yield from lines[1:]
            else:
                yield from _entry(f"{pad}-", item, depth)
    else:
        yield f"{pad}{_scalar(value)}"


def _entry(head: str, item: object, depth: int) -> Iterator[str]:
    if isinstance(item, Mapping) and item:
        yield head
        yield from _block(item, depth + 1)
    elif isinstance(item, Sequence) and not isinstance(item, str) and item:
        if all(isinstance(each, (str, int, float)) for each in item):
            yield f"{head} [{', '.join(_scalar(each) for each in item)}]"
        else:
            yield head
            yield from _block(item, depth + 1)
    elif isinstance(item, str) and "\n" in item:
        yield f"{head} |" if item.endswith("\n") else f"{head} |-"
        for line in item.removesuffix("\n").split("\n"):
            yield f"{'  ' * (depth + 1)}{line}".rstrip()
    else:
        yield f"{head} {_scalar(item)}"


def _scalar(value: object) -> str:
    if isinstance(value, str):
        plain = _PLAIN.match(value) and value.lower() not in _RESERVED
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, (bool, int, float)):
        # YAML 1.1 takes 5e-06 for text, and 5.0e-06 for a number.
        return re.sub(r"^(-?\d+)e", r"\1.0e", json.dumps(value))
    if isinstance(value, (Mapping, Sequence)) and not value:
        return "{}" if isinstance(value, Mapping) else "[]"
    raise TypeError(f"{type(value).__name__} is not written as YAML: {value!r}")
