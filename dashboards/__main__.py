"""``python -m dashboards`` writes dashboards/rules and dashboards/generated; with --check it only says which files
differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dashboards.boards import FILES as BOARDS
from dashboards.rules_files import FILES as RULES

HERE = Path(__file__).resolve().parent


def files() -> dict[Path, str]:
    """Every generated file and what should stand in it."""
    rules = {HERE / "rules" / name: make() for name, make in RULES.items()}
    return rules | {HERE / "generated" / name: text for name, text in BOARDS.items()}


def stale() -> list[Path]:
    """Generated files that are missing, differ, or are no longer generated."""
    wanted = files()
    present = {path for folder in ("rules", "generated") for path in (HERE / folder).glob("*")}
    return sorted(
        path
        for path in wanted.keys() | present
        if path not in wanted or not path.is_file() or path.read_text() != wanted[path]
    )


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: python -m dashboards [--check]", file=sys.stderr)
        return 2
    differ = stale()
    for path in differ:
        print(path.relative_to(HERE.parent))
    if arguments:
        return 1 if differ else 0
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for path in differ:
        if path not in files():
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
