"""``python -m tools.schema``: the telemetry's names as a semantic-convention registry and as a reference page, from
semconv.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.schema import reference, registry


def files() -> dict[str, str]:
    """Path below the output folder -> text, of everything that is generated."""
    return {**{f"registry/{name}": text for name, text in registry.files()}, "docs/telemetry.md": reference.text()}


def main(argv: list[str] | None = None) -> int:
    """Write the files, or with --check name those that differ (then 1)."""
    parser = argparse.ArgumentParser(prog="python -m tools.schema", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder that receives registry/ and docs/telemetry.md (default: here)"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; say which files differ")
    chosen = parser.parse_args(argv)
    differ = [
        name
        for name, text in files().items()
        if not (chosen.out / name).is_file() or (chosen.out / name).read_text() != text
    ]
    for name in differ:
        print(name)
        if not chosen.check:
            (chosen.out / name).parent.mkdir(parents=True, exist_ok=True)
            (chosen.out / name).write_text(files()[name])
    return 1 if differ and chosen.check else 0
