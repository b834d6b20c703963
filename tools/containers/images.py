"""Images of the stack made from what a machine without a registry has: built programs, busybox-static, Debian's
packages.

Each stands under the name that docker-compose.yml gives it. The service's image holds Python alone: its packages and
the project are mounted from the environment that the tests use, 5 GB that need no second copy.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tools import toolchain
from tools.toolchain import cache

#: Debian's release whose python3 is this interpreter's minor version, so that compiled packages load.
SUITES: Final = {(3, 11): "bookworm", (3, 13): "trixie"}
MIRROR: Final = "http://deb.debian.org/debian"
PACKAGES, PROJECT = "/packages", "/project"
#: What the image runs: the Dockerfile's own.
COMMAND: Final = [
    "opentelemetry-instrument",
    "python",
    "-m",
    "vibevoice_otel.service",
    "--host",
    "0.0.0.0",
    "--port",
    "8000",
]
#: The console scripts that the commands of docker-compose.yml name.
SCRIPTS: Final = {
    "opentelemetry-instrument": "from opentelemetry.instrumentation.auto_instrumentation import run; run()",
    "vibevoice-otel": "import sys; from vibevoice_otel.commands.cli import main; sys.exit(main())",
}


class CannotMakeError(RuntimeError):
    """The image cannot be made here; the message says what is missing."""


def busybox() -> tuple[bytes, list[str]]:
    """A layer with busybox and its commands, and the image's settings."""
    return _layer({"bin/busybox": _busybox()}, links=_applets()), ['CMD ["sh"]']


def collector() -> tuple[bytes, list[str]]:
    """The Collector alone: no shell, as in the official image."""
    program = toolchain.require("otelcol-vibevoice")
    return _layer({"otelcol-contrib": program}), ['ENTRYPOINT ["/otelcol-contrib"]', "USER 10001"]


def prometheus() -> tuple[bytes, list[str]]:
    """Prometheus and promtool, with a folder for its data that its user owns."""
    return _monitoring("prometheus", "promtool")


def alertmanager() -> tuple[bytes, list[str]]:
    """Alertmanager and amtool."""
    return _monitoring("alertmanager", "amtool")


def service() -> tuple[bytes, list[str]]:
    """Debian's Python of this interpreter's minor version, and the console scripts; PACKAGES and PROJECT are to be
    mounted.
    """
    suite = SUITES.get(sys.version_info[:2])
    if suite is None:
        raise CannotMakeError(f"no Debian release has Python {sys.version_info[0]}.{sys.version_info[1]}")
    base = cache.root() / "images" / f"python-{suite}.tar"
    if not base.is_file():
        _debootstrap(suite, base)
    layer = io.BytesIO(base.read_bytes())
    with tarfile.open(fileobj=layer, mode="a") as archive:
        for name, body in SCRIPTS.items():
            _add(archive, f"usr/local/bin/{name}", f"#!/usr/bin/python3\n{body}\n".encode(), 0o755)
        _link(archive, "usr/local/bin/python", "/usr/bin/python3")
    settings = [
        "USER 10002",
        f"WORKDIR {PROJECT}",
        "ENV OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1",
    ]
    settings.append(f"ENV PYTHONPATH={PACKAGES}:{PROJECT} PATH=/usr/local/bin:/usr/bin:/bin")
    return layer.getvalue(), [*settings, f"CMD {json.dumps(COMMAND)}"]


#: Compose's service -> what makes its image. Tempo and Grafana have none: no package registry holds their programs.
MAKERS: Final[Mapping[str, Callable[[], tuple[bytes, list[str]]]]] = {
    "volumes": busybox,
    "health": busybox,
    "collector": collector,
    "prometheus": prometheus,
    "alertmanager": alertmanager,
    "service": service,
}


def load(name: str, maker: Callable[[], tuple[bytes, list[str]]], environment: Mapping[str, str]) -> None:
    """Make an image and give it to the engine under ``name``.

    Raises:
        CannotMakeError: a part is missing here.
        subprocess.CalledProcessError: the engine refused it.
    """
    try:
        layer, settings = maker()
    except FileNotFoundError as error:
        raise CannotMakeError(str(error)) from None
    changes = [argument for line in settings for argument in ("--change", line)]
    command = ["docker", "import", *changes, "-", name]
    subprocess.run(command, input=layer, env=dict(environment), stdout=subprocess.DEVNULL, check=True)


def _monitoring(*programs: str) -> tuple[bytes, list[str]]:
    main = programs[0]
    files = {"bin/busybox": _busybox(), **{f"bin/{each}": toolchain.require(each) for each in programs}}
    layer = _layer(files, links=_applets(), folders={main: 65534})
    return layer, [f'ENTRYPOINT ["/bin/{main}"]', "USER 65534", f"WORKDIR /{main}", "ENV PATH=/bin"]


def _busybox() -> Path:
    found = shutil.which("busybox")
    if found is None:
        raise FileNotFoundError("busybox is missing: install busybox-static")
    return Path(found)


def _applets() -> dict[str, str]:
    listed = subprocess.run([_busybox(), "--list"], capture_output=True, text=True, check=True).stdout.split()
    return {f"bin/{name}": "busybox" for name in listed if name != "busybox"}


def _layer(
    files: Mapping[str, Path], links: Mapping[str, str] | None = None, folders: Mapping[str, int] | None = None
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        # Every folder by name: one that only a file's path implies is closed to all but root where the engine runs
        # without root.
        for name, owner in {"tmp": 0, "etc": 0, "bin": 0, **(folders or {})}.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.uid, entry.gid = tarfile.DIRTYPE, owner, owner
            entry.mode = 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        _add(archive, "etc/passwd", b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", 0o644)
        for name, path in files.items():
            _add(archive, name, path.read_bytes(), 0o755)
        for name, target in (links or {}).items():
            _link(archive, name, target)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, body: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(body), mode
    archive.addfile(entry, io.BytesIO(body))


def _link(archive: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    archive.addfile(entry)


def _debootstrap(suite: str, target: Path) -> None:
    """Debian's smallest system with Python, as a tar in the cache."""
    program = shutil.which("debootstrap")
    if program is None:
        raise CannotMakeError("debootstrap is missing: install debootstrap")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vibevoice-otel-debootstrap-") as folder:
        root = Path(folder) / "root"
        done = subprocess.run(
            [program, "--variant=minbase", "--include=python3", suite, str(root), MIRROR],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CannotMakeError(f"debootstrap {suite} failed:\n{done.stdout[-1500:]}{done.stderr[-500:]}")
        fresh = target.with_name(f".{target.name}.part")
        left_out = [
            "./dev/*",
            "./proc/*",
            "./sys/*",
            "./var/cache/apt",
            "./var/lib/apt/lists",
            "./usr/share/doc",
            "./usr/share/locale",
        ]
        excludes = [f"--exclude={each}" for each in left_out]
        subprocess.run(["tar", "-C", str(root), *excludes, "-cf", str(fresh), "."], check=True)
        fresh.replace(target)
