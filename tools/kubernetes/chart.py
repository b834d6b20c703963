"""deploy/kubernetes/chart: linted and rendered by helm."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from tools import toolchain
from tools.toolchain.recipes import ROOT

KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
CHART: Final = KUBERNETES / "chart"
EXAMPLES: Final = KUBERNETES / "examples"
RENDERED: Final = KUBERNETES / "rendered"
RELEASE, NAMESPACE, VERSION = "vibevoice", "speech", "1.34.4"
#: Rules and dashboards are files of their own already (dashboards/); the committed manifests leave them out.
COMMITTED: Final = ("monitoring.rules=false", "monitoring.dashboards=false")
HEAD: Final = """\
# What the chart renders from deploy/kubernetes/examples/{name}.yaml, for use without Helm;
# written by `make kubernetes`. The rules (dashboards/rules) and dashboards (dashboards/generated) are left out.
"""


class HelmError(RuntimeError):
    """Helm refused; the message is its own."""


def examples() -> list[str]:
    """Names of the values files that show the chart's uses."""
    return sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def lint(*arguments: str) -> None:
    """Raise HelmError for whatever ``helm lint --strict`` says against the chart."""
    _helm("lint", "--strict", "--quiet", str(CHART), *arguments)


def render(example: str | None = None, *settings: str) -> str:
    """The manifests as text, with the values of an example and ``NAME=VALUE`` settings. Raises HelmError."""
    values = ["--values", str(EXAMPLES / f"{example}.yaml")] if example else []
    return _helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *values, *_sets(settings))


def objects(example: str | None = None, *settings: str) -> list[dict[str, Any]]:
    """The manifests as objects."""
    return [each for each in yaml.safe_load_all(render(example, *settings)) if each]


def inside(thing: dict[str, Any]) -> dict[str, Any]:
    """The object in the chart's namespace, where it names none."""
    return {**thing, "metadata": {"namespace": NAMESPACE, **thing["metadata"]}}


def committed(example: str) -> str:
    """What deploy/kubernetes/rendered/EXAMPLE.yaml is to hold."""
    return HEAD.format(name=example) + render(example, *COMMITTED)


def path(example: str) -> Path:
    """Where the committed manifests of an example lie."""
    return RENDERED / f"{example}.yaml"


def _sets(settings: tuple[str, ...]) -> list[str]:
    return [argument for each in settings for argument in ("--set", each)]


def _helm(*arguments: str) -> str:
    command = [str(toolchain.require("helm")), *arguments, "--kube-version", VERSION]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "found symbolic link" not in line]
        raise HelmError("\n".join(said))
    return done.stdout
