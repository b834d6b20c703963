"""The definitions of foreign objects that the chart renders, from the modules of the operators that own them."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tools.toolchain import go


@dataclass(frozen=True, slots=True)
class Source:
    """A module at a version, with its checksum as go.sum writes it, and the files in it that define objects."""

    module: str
    version: str
    checksum: str
    files: tuple[str, ...]


OPERATOR: Final = Source(
    "github.com/open-telemetry/opentelemetry-operator",
    "v0.140.0",
    "h1:yHwVEn1vjQ7n9OoOZX/rsgur+YozIKNjCoWSk6EAhvw=",
    ("config/crd/bases/opentelemetry.io_instrumentations.yaml",),
)
SOURCES: Final = (
    Source(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        (
            "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        ),
    ),
    Source(
        "github.com/kedacore/keda/v2",
        "v2.21.0",
        "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
        ("config/crd/bases/keda.sh_scaledobjects.yaml",),
    ),
    OPERATOR,
)


def definitions() -> list[dict[str, Any]]:
    """Every CustomResourceDefinition.

    Raises:
        RuntimeError: a module could not be had, or is not the one that was pinned.
        GoMissingError: there is no Go.
    """
    found = []
    for source in SOURCES:
        folder = fetched(source)
        found += [yaml.safe_load((folder / file).read_text()) for file in source.files]
    return found


def fetched(source: Source) -> Path:
    """The module's folder in Go's cache. Raises as ``definitions`` does."""
    command = [go.find(), "mod", "download", "-json", f"{source.module}@{source.version}"]
    with tempfile.TemporaryDirectory() as outside:  # of any module
        done = subprocess.run(command, cwd=outside, env=go.environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{source.module}@{source.version}: {done.stdout[-500:]}{done.stderr[-500:]}")
    said = json.loads(done.stdout)
    if said["Sum"] != source.checksum:
        raise RuntimeError(f"{source.module}@{source.version} has checksum {said['Sum']}, pinned is {source.checksum}")
    return Path(said["Dir"])
