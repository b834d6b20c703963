"""docker compose on one project: which of its services have an image here, and what its containers are doing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, Final

from tools import toolchain
from tools.containers import images
from tools.toolchain.recipes import ROOT

PROJECT: Final = "vibevoice-otel-smoke"
PULL_S: Final = 900
#: Where Tempo's image cannot be had: the small store answers Tempo's by-id API in its place.
STORE: Final = ["python", "-m", "tools.stack.traces", "--otlp=0.0.0.0:4317", "--http=0.0.0.0:3200"]


class Compose:
    """One project at one engine.

    Args:
        host: DOCKER_HOST; None for where the docker command looks by itself.
        files: compose files, the first docker-compose.yml.
        env_file: as ``--env-file``.
    """

    def __init__(self, host: str | None, files: list[Path], env_file: Path | None = None) -> None:
        self.environment = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
        self._command = [*_program(), "--project-name", PROJECT, "--project-directory", str(ROOT)]
        self._command += [f"--file={file}" for file in files]
        if env_file is not None:
            self._command += ["--env-file", str(env_file)]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run compose; its standard output is kept, its progress goes to the log. Raises CalledProcessError."""
        command = [*self._command, *arguments]
        return subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, text=True, check=check)

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Run docker at the same engine; its standard output. Raises CalledProcessError."""
        done = subprocess.run(
            ["docker", *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=PULL_S
        )
        if check and done.returncode:
            raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()[-600:]}")
        return done.stdout

    def config(self) -> dict[str, Any]:
        """The services as compose reads them, profiles of the environment included."""
        found: dict[str, Any] = json.loads(self.run("config", "--format", "json").stdout)["services"]
        return found

    def container(self, service: str) -> dict[str, Any]:
        """Docker inspect of the service's one container."""
        name = self.run("ps", "--all", "--quiet", service).stdout.split()[0]
        found: dict[str, Any] = json.loads(self.docker("inspect", name))[0]
        return found

    def kill(self, service: str) -> None:
        """SIGKILL to the service's first process from outside, which a restart policy sees as a crash (docker kill is a
        stop).
        """
        container = self.container(service)
        pid, hostname = container["State"]["Pid"], Path(f"/proc/{container['State']['Pid']}/root/etc/hostname")
        with contextlib.suppress(OSError):
            if hostname.read_text().strip() == container["Config"]["Hostname"]:  # it runs on this machine, and we may
                os.kill(pid, signal.SIGKILL)
                return
        image = self.config()["health"]["image"]
        self.docker("run", "--rm", "--pid=host", "--security-opt=apparmor=unconfined", image, "kill", "-9", str(pid))

    def has(self, image: str) -> bool:
        """Whether the engine has the image."""
        return bool(self.docker("images", "--quiet", image).strip())

    def pull(self, image: str) -> bool:
        """Fetch the image; False where no registry gives it."""
        try:
            return bool(self.docker("pull", "--quiet", image, check=False).strip())
        except subprocess.TimeoutExpired:
            return False


def _program() -> list[str]:
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return ["docker", "compose"] if plugin.returncode == 0 else [str(toolchain.require("docker-compose"))]


def supply(compose: Compose) -> list[str]:
    """Give the engine an image for each service: what it has, what a registry gives, what can be made. Returns the
    services left without.

    A service that docker-compose.yml builds is left to compose wherever the registry answers.
    """
    services = compose.config()
    offline = not compose.has(services["health"]["image"]) and not compose.pull(services["health"]["image"])
    without = []
    for name, service in services.items():
        if (not offline and ("build" in service or compose.pull(service["image"]))) or compose.has(service["image"]):
            continue
        maker = images.MAKERS.get(name)
        if maker is None:
            without.append(name)
            continue
        print(f"image {service['image']}: made here", flush=True)
        images.load(service["image"], maker, compose.environment)
    return [name for name in without if not compose.has(services[name]["image"])]


def stand_in(folder: Path, services: dict[str, Any], without: list[str]) -> Path:
    """A compose file for images made here: packages and project mounted, the small trace store for a Tempo that is
    missing.
    """
    packages = sysconfig.get_path("purelib")
    mounts = [f"{packages}:{images.PACKAGES}:ro", f"{ROOT}:{images.PROJECT}:ro"]
    image = services["service"]["image"]
    changed: dict[str, Any] = {
        name: {"volumes": mounts} for name, service in services.items() if service["image"] == image
    }
    if "tempo" in without:
        changed["tempo"] = {"image": image, "command": STORE, "volumes": mounts}
    target = folder / "images-made-here.json"
    target.write_text(json.dumps({"services": changed}))
    return target
