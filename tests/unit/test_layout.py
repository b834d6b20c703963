"""The rooms of the package: imports run down, from room to room without a circle. docs/development.md says what each
room is.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vibevoice_otel"
#: From the ground up. A room may import what stands in a line above its own, nothing else.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("semconv.py", "failures.py", "routes.py", "traceparent.py", "config_file.py"),
    ("forking.py", "settings.py"),
    ("hooks",),  # know nothing of what they note
    ("recording",),  # what is noted, and the records made of it
    ("sampling", "otlp", "insight"),
    ("metrics", "privacy", "deferred.py", "service"),
    ("sdk", "adapters", "web"),
    ("process", "page"),
    ("wiring.py",),
    ("installation.py",),
    ("instrumentor.py",),
    ("commands",),
)


def room(parts: list[str]) -> str:
    return parts[0] if (PACKAGE / parts[0]).is_dir() else f"{parts[0]}.py"


def imports() -> dict[str, dict[str, set[str]]]:
    """Room -> room that it imports -> the files that do."""
    found: dict[str, dict[str, set[str]]] = {}
    for file in PACKAGE.rglob("*.py"):
        own = list(file.relative_to(PACKAGE).with_suffix("").parts)
        if own[0] in {"__init__", "__main__"}:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != "vibevoice_otel":
                continue
            module = (node.module or "").split(".")[1:]
            for name in node.names:
                target = module or [name.name]
                if module or (PACKAGE / name.name).is_dir() or (PACKAGE / f"{name.name}.py").exists():
                    there, here = room(target), room(own)
                    if there != here:
                        found.setdefault(here, {}).setdefault(there, set()).add(str(file.relative_to(ROOT)))
    return found


def test_every_room_has_a_floor() -> None:
    """A new room or file is given its place here and its sentence in docs/development.md."""
    rooms = {
        each.name
        for each in PACKAGE.iterdir()
        if (each.is_dir() and each.name != "__pycache__") or each.suffix == ".py"
    } - {"__init__.py", "__main__.py"}
    assert rooms == {each for floor in FLOORS for each in floor}
    text = (ROOT / "docs" / "development.md").read_text()
    assert [each for each in sorted(rooms) if f"`{each.removesuffix('.py')}" not in text] == []


@pytest.mark.parametrize("floor", range(len(FLOORS)), ids=lambda n: "+".join(FLOORS[n]))
def test_imports_run_down(floor: int) -> None:
    """No room imports one of its own floor or of a higher one, so no two rooms are in a circle; types count too."""
    below = {each for lower in FLOORS[:floor] for each in lower}
    graph = imports()
    up = {
        (here, there): sorted(files)
        for here in FLOORS[floor]
        for there, files in graph.get(here, {}).items()
        if there not in below
    }
    assert up == {}


def test_a_name_is_imported_where_it_stands() -> None:
    """A package that finds its names by ``__getattr__`` hides what it imports. One does, and says why: its command line
    starts without numpy (``test_help_needs_no_statistics``).
    """
    lazy = [
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
            for node in ast.parse(file.read_text()).body
        )
    ]
    assert lazy == ["insight/__init__.py"]
