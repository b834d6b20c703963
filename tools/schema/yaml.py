"""YAML as this project's generated files have it: PyYAML's, with keys in their order, and text of several lines as it
stands.
"""

from __future__ import annotations

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - a value that recurs is written again, for people's sake
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - PyYAML's
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


def _sequence(dumper: yaml.SafeDumper, value: list[Any] | tuple[Any, ...]) -> yaml.SequenceNode:
    short = all(isinstance(each, (str, int, float)) for each in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=short)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _sequence)
_Dumper.add_representer(tuple, _sequence)


def dump(value: object, comment: str = "") -> str:
    """The YAML text of ``value``, ending in a newline; each line of ``comment`` goes above it behind a #.

    Raises:
        yaml.representer.RepresenterError: for a value of another kind.
    """
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
