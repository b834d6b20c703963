"""The environment of upstream's own code: its pinned transformers and the long-form package, laid over the test environment.

    python tests/upstream/environment.py FOLDER

A virtual environment that holds only what differs from ours (requirements/upstream.txt, about 20 MB) and sees the rest of the
environment that runs this file through a .pth, torch's gigabytes first of all. Made again only when those requirements change.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = Path(__file__).parent.parent.parent / "requirements" / "upstream.txt"
STAMP = "requirements.sha256"
DEFAULT = Path(sys.prefix) if (Path(sys.prefix) / STAMP).exists() else Path(sys.prefix) / "upstream"  # we may already be in it


def make(folder: Path) -> Path:
    """Make the environment if it is not there as it should be; return its interpreter.

    Raises:
        subprocess.CalledProcessError: pip could not install (its message is on standard error).
    """
    python = folder / "bin" / "python"
    stamp = folder / STAMP
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    subprocess.run([*install, "-r", str(REQUIREMENTS)], check=True)
    ours = sysconfig.get_path("purelib")
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (own / "zz_test_environment.pth").write_text(f"import site; site.addsitedir({ours!r})\n")  # after its own: what it has comes first
    stamp.write_text(wanted)
    return python


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    sys.stdout.write(f"{make(folder)}\n")


if __name__ == "__main__":
    main()
