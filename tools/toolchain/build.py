"""Builds one recipe into the cache, whole or not at all, with one builder at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tools.toolchain import cache, go
from tools.toolchain.recipes import BY_NAME, RECIPES, Recipe

QUIET_PROGRESS_S: Final = 20.0  # how often a log that is no terminal gets a line


class BuildFailedError(RuntimeError):
    """A go command failed; the message holds the end of what it printed."""


def build(names: list[str] | None = None) -> None:
    """Build every recipe named that the cache lacks; those of ``make tools`` when None.

    Raises:
        BuildFailedError: a go command failed.
        GoMissingError: there is no Go, and none could be installed.
    """
    for recipe in RECIPES:
        if recipe.name in names if names is not None else not (recipe.hidden or recipe.platform):
            _ensure(recipe)


def _ensure(recipe: Recipe) -> Path:
    folder = cache.folder(recipe)
    if not folder.is_dir():
        with _lock(recipe):
            if not folder.is_dir():  # another process may have built it while this one waited
                _build(recipe, folder)
    _publish(recipe, folder)
    return folder


@contextlib.contextmanager
def _lock(recipe: Recipe) -> Iterator[None]:
    cache.root().mkdir(parents=True, exist_ok=True)
    with (cache.root() / f".{recipe.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"toolchain: {recipe.name}: another process is building it; waiting", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _publish(recipe: Recipe, folder: Path) -> None:
    """Point bin/NAME at this version, for people; code asks cache.path for the exact one."""
    shelf = cache.root() / "bin"
    shelf.mkdir(parents=True, exist_ok=True)
    for program in recipe.packages:
        link, fresh = shelf / program, shelf / f".{program}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(folder / program)
        fresh.replace(link)


def _build(recipe: Recipe, folder: Path) -> None:
    command = go.find()
    staging = folder.with_name(folder.name + ".part")
    shutil.rmtree(staging, ignore_errors=True)
    work, out = staging / "work", staging / "out"
    work.mkdir(parents=True)
    out.mkdir()
    started = time.monotonic()
    print(f"toolchain: {recipe.name}: fetching modules", flush=True)
    source, flags = _sources(recipe, command, work)
    if recipe.tags:
        flags += ["-tags", recipe.tags]
    total = len(_run([command, "list", "-deps", *flags, *recipe.packages.values()], source).split())
    link = "-s -w"
    if recipe.version_symbol:
        link += f" -X {recipe.version_symbol}={_module_version(recipe, command, source, flags)}"
    done = 0
    for program, package in recipe.packages.items():
        target = ["-ldflags", link, "-o", str(out / program), package]
        done = _compile([command, "build", "-v", "-trimpath", *flags, *target], source, recipe, done, total)
    shutil.rmtree(folder, ignore_errors=True)
    out.rename(folder)
    shutil.rmtree(staging, ignore_errors=True)
    print(
        f"toolchain: {recipe.name}: built {', '.join(recipe.packages)} in {time.monotonic() - started:.0f} s",
        flush=True,
    )


def _sources(recipe: Recipe, command: str, work: Path) -> tuple[Path, list[str]]:
    """Where to build, and the extra go flags for it."""
    if recipe.builder is not None:
        return _generated(recipe, recipe.builder, work), []
    if recipe.replaced is not None:
        return recipe.directory, ["-modfile", str(_replaced(recipe, recipe.replaced, command, work))]
    return recipe.directory, []


def _generated(recipe: Recipe, manifest: Path, work: Path) -> Path:
    """The Collector's main package, generated from the manifest, with the versions and checksums that are committed
    beside it.
    """
    ocb = _ensure(BY_NAME["ocb"]) / "ocb"
    # output_path in the manifest is relative to where the builder runs.
    _run([str(ocb), "--config", str(manifest), "--skip-compilation", "--skip-get-modules"], work)
    source = work / "_build"
    for name in ("go.mod", "go.sum"):
        shutil.copy(recipe.directory / name, source / name)
    return source


def lock() -> None:
    """Write the Collector's go.mod and go.sum anew, after builder.yaml changed."""
    recipe = BY_NAME["collector"]
    ocb = _ensure(BY_NAME["ocb"]) / "ocb"
    with tempfile.TemporaryDirectory() as folder:
        writable = {"GOFLAGS": "-buildvcs=false"}
        _run([str(ocb), "--config", str(recipe.builder), "--skip-compilation"], Path(folder), writable)
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(Path(folder) / "_build" / name, recipe.directory / name)
    print(f"toolchain: wrote {recipe.directory / 'go.mod'} and go.sum", flush=True)


def _replaced(recipe: Recipe, replaced: tuple[str, str, str], command: str, work: Path) -> Path:
    """A go.mod that takes a module from a copy with a file put in; the module's own checksum was verified on
    fetching.
    """
    module, file, text = replaced
    original = _run([command, "mod", "download", "-json", module], recipe.directory)
    directory = Path(json.loads(original)["Dir"])
    copy = work / "module"
    shutil.copytree(directory, copy, copy_function=shutil.copyfile)
    for folder in [copy, *(p for p in copy.rglob("*") if p.is_dir())]:
        folder.chmod(0o755)  # the module cache is read-only, and copytree keeps that
    target = copy / file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    for name in ("go.mod", "go.sum"):
        shutil.copyfile(recipe.directory / name, work / name)
    _run([command, "mod", "edit", f"-replace={module}={copy}", str(work / "go.mod")], recipe.directory)
    return work / "go.mod"


def _module_version(recipe: Recipe, command: str, source: Path, flags: list[str]) -> str:
    modfile = flags[flags.index("-modfile") : flags.index("-modfile") + 2] if "-modfile" in flags else []
    text = (
        _run([command, "list", "-m", *modfile, "-f", "{{.Version}}", recipe.module], source).strip().removeprefix("v")
    )
    major, _, rest = text.partition(".")
    # Prometheus numbers its module v0.314.0 for release 3.14.0.
    if recipe.name == "prometheus" and major == "0":
        number, _, patch = rest.partition(".")
        return f"{number[0]}.{int(number[1:])}.{patch}"
    return text


def _run(command: list[str], directory: Path, extra: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, env=go.environment(extra)
    )
    if done.returncode:
        raise BuildFailedError(f"`{' '.join(command)}` in {directory} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def _compile(command: list[str], directory: Path, recipe: Recipe, done: int, total: int) -> int:
    """Run go build -v, which names each package as it is compiled; returns how many were,
    for the next program's bar.
    """
    terminal, shown, tail = sys.stdout.isatty(), 0.0, list[str]()
    with subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True, env=go.environment()) as process:
        assert process.stderr is not None
        for line in process.stderr:
            done += 1
            tail = [*tail[-30:], line]
            now = time.monotonic()
            if now - shown > (0.2 if terminal else QUIET_PROGRESS_S):
                shown = now
                print(
                    f"toolchain: {recipe.name}: {min(done, total)}/{total} packages",
                    end="\r" if terminal else "\n",
                    flush=True,
                )
    if process.returncode:
        raise BuildFailedError(f"building {recipe.name} failed:\n{''.join(tail)}")
    return done
