"""Where built programs lie: ``$VIBEVOICE_OTEL_CACHE`` (default ~/.cache/vibevoice-otel), keyed by the hash of what pins
them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tools.toolchain.recipes import PROGRAMS, Recipe


def root() -> Path:
    """The cache's folder; it need not exist yet."""
    return Path(os.environ.get("VIBEVOICE_OTEL_CACHE") or Path.home() / ".cache" / "vibevoice-otel")


def key(recipe: Recipe) -> str:
    """Hash of the recipe and of the files that pin it: a changed version, tag or checksum builds anew."""
    put_in = recipe.replaced[1] if recipe.replaced else ""
    digest = hashlib.sha256(repr((recipe.name, sorted(recipe.packages.items()), recipe.tags, put_in)).encode())
    for file in recipe.manifest:
        digest.update(b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def folder(recipe: Recipe) -> Path:
    """Where this very version of the recipe's programs belongs."""
    return root() / "tools" / f"{recipe.name}-{key(recipe)}"


def path(program: str) -> Path | None:
    """The built program of exactly the pinned version, or None. Raises KeyError for a name that is not in the table."""
    file = folder(PROGRAMS[program]) / program
    return file if file.is_file() else None


def require(program: str) -> Path:
    """Like ``path``, but raises FileNotFoundError with the command that builds it."""
    found = path(program)
    if found is None:
        raise FileNotFoundError(f"{program} is not built: run `make tools` (once; kept in {root()})")
    return found
