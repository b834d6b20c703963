"""Makes the project's own environment: says what will be downloaded, then installs exactly what requirements/ pins.

Standard library only, because it runs before anything is installed. Run it again and it does nothing that is done.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 10)
#: Measured with an empty cache: what pip fetches for requirements/service.txt and test.txt, and what it takes unpacked,
#: in GB. On Linux x86-64 and arm64 PyPI's torch brings CUDA's libraries along.
LINUX_DOWNLOAD, LINUX_DISK = "2.2", "5.5"
OTHER_DOWNLOAD, OTHER_DISK = "0.3", "1.5"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--requirements", type=Path, required=True)
    arguments = parser.parse_args()
    if sys.version_info < OLDEST:
        return _fail(
            f"Python {OLDEST[0]}.{OLDEST[1]} or later is needed, this is {platform.python_version()}: make "
            "PYTHON=/path/to/python3 ..."
        )
    python = arguments.venv / "bin" / "python"
    if not python.exists():
        if shutil.which("git") is None:
            return _fail("git is missing: install it with your system's package manager")
        print(f"Making {arguments.venv} with Python {platform.python_version()} ...", flush=True)
        if subprocess.run([sys.executable, "-m", "venv", str(arguments.venv)], check=False).returncode:
            return _fail("Python's venv module is missing (Debian and Ubuntu: the package python3-venv)")
    on_linux = sys.platform == "linux"
    download, disk = (LINUX_DOWNLOAD, LINUX_DISK) if on_linux else (OTHER_DOWNLOAD, OTHER_DISK)
    free = shutil.disk_usage(arguments.venv).free / 1e9
    print(
        f"Installing {arguments.requirements.name}: up to {download} GB to download (less what pip's cache holds), "
        f"{disk} GB on disk"
        f"{', most of it torch and the CUDA libraries that PyPI ships with it' if on_linux else ''}. {free:.0f} GB are "
        "free.",
        flush=True,
    )
    if free < float(disk):
        return _fail(f"{disk} GB of disk are needed under {arguments.venv.parent.resolve()}")
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--quiet",
        "--progress-bar",
        "on" if sys.stdout.isatty() else "off",
    ]
    environment = {**os.environ, "PIP_NO_INPUT": "1"}
    # Without isolation pip builds this package by what is pinned, not by whatever backend it would fetch.
    pinned = [
        ["--require-hashes", "-r", str(file)] for file in (arguments.requirements, ROOT / "requirements" / "build.txt")
    ]
    for step in (*pinned, ["--no-deps", "--no-build-isolation", "-e", str(ROOT)]):
        if subprocess.run([*pip, *step], env=environment, check=False).returncode:
            return _fail("pip could not install; its message is above. Run the same command again to continue")
    return 0


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
