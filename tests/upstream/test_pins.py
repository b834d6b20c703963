"""``pip install vibevoice-otel`` into upstream's environment moves none of its pins: asked of pip's own resolver."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .server import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PINS = Path(__file__).parent / "pins.txt"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def ours() -> list[str]:
    """The core dependencies, those that installing us without an extra brings."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return list(project["dependencies"])


def test_the_core_needs_nothing_that_is_observed() -> None:
    """torch, transformers and a web server belong to what is observed:
    no requirement of ours may choose their version.
    """
    names = {normal(re.split(r"[<>=!~\[ ;]", requirement, maxsplit=1)[0]) for requirement in ours()}
    assert not names & {
        "torch",
        "transformers",
        "tokenizers",
        "accelerate",
        "diffusers",
        "fastapi",
        "starlette",
        "uvicorn",
        "websockets",
    }


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="these pins were taken on Python 3.11; older Pythons have older ones"
)
@pytest.mark.timeout(900)  # pip asks the index, and asks again
def test_no_pin_of_upstream_moves(tmp_path: Path) -> None:
    """The resolver finds a set with all of upstream's versions and us; every pin is in it as it was."""
    report = tmp_path / "report.json"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    asked = subprocess.run(
        [
            *pip,
            "--dry-run",
            "--ignore-installed",
            "--only-binary",
            ":all:",
            "--report",
            str(report),
            "-r",
            str(PINS),
            *ours(),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr[-3000:]
    chosen = {
        normal(each["metadata"]["name"]): each["metadata"]["version"]
        for each in json.loads(report.read_text())["install"]
    }
    pins = dict(line.split("==") for line in PINS.read_text().splitlines() if "==" in line)
    assert {name: chosen[normal(name)] for name in pins} == pins
    assert {normal(re.split(r"[<>=!~\[ ;]", requirement, maxsplit=1)[0]) for requirement in ours()} <= chosen.keys()
    assert "torch" not in chosen
