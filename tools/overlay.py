"""An environment that differs from the tests' own in a few packages: upstream's pinned transformers, another
OpenTelemetry SDK.

    python tools/overlay.py NAME

makes it from requirements/NAME.txt beside the environment that runs this file, and prints its interpreter. It holds
only what differs (some 20 MB) and sees the rest through a .pth, torch's gigabytes first of all. Made again only when
those requirements change.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
STAMP = "requirements.sha256"


def make(name: str, folder: Path | None = None) -> Path:
    """Make the environment of requirements/``name``.txt in ``folder`` if it is not there as it should be; return its
    interpreter.

    Raises:
        FileNotFoundError: there are no such requirements.
        subprocess.CalledProcessError: pip could not install (its message is on standard error).
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    own = Path(sys.prefix)
    folder = folder or (
        own if (own / STAMP).exists() and (own / STAMP).read_text() == wanted else own / name
    )  # we may already be in it
    python = folder / "bin" / "python"
    stamp = folder / STAMP

    def there() -> bool:
        return stamp.exists() and stamp.read_text() == wanted and python.exists()

    if not there():
        with folder.with_name(f".{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # tests that run side by side ask for the same one
            if not there():
                _install(folder, python, requirements)
                stamp.write_text(wanted)
    return python


def _install(folder: Path, python: Path, requirements: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
    ]
    subprocess.run([*install, "-r", str(requirements)], check=True)
    ours = sysconfig.get_path("purelib")
    theirs = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (theirs / "zz_test_environment.pth").write_text(
        f"import site; site.addsitedir({ours!r})\n"
    )  # after its own: what it has comes first


def main() -> None:
    sys.stdout.write(f"{make(sys.argv[1])}\n")


if __name__ == "__main__":
    main()
