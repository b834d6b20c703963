"""The built wheel, in an environment that held nothing: README's install gives a trace,
and needs no torch of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.otlp import Receiver

from .conftest import Running

ROOT = Path(__file__).resolve().parents[2]
#: A caller's search path would lead past the wheel.
CLEAN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _must(*command: str | Path) -> str:
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=280, check=False, env=CLEAN
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel, and what the wheel asks for, alone."""
    folder = tmp_path_factory.mktemp("install")
    _must(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT)
    _must(sys.executable, "-m", "twine", "check", "--strict", *sorted((folder / "dist").iterdir()))
    _must(sys.executable, "-m", "venv", folder / "venv")
    pip = folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"
    _must(*pip, "-c", ROOT / "requirements" / "pins.txt", *(folder / "dist").glob("*.whl"))
    return folder / "venv" / "bin"


def test_the_library_needs_nothing_of_what_it_observes(environment: Path) -> None:
    """Core dependencies bring the distro that the launcher needs, and neither torch nor transformers nor a web
    server.
    """
    names = _must(environment / "python", "-m", "pip", "list", "--format=freeze").lower()
    assert "opentelemetry-distro" in names
    assert not [
        heavy
        for heavy in ("torch", "transformers", "diffusers", "fastapi", "uvicorn", "scipy")
        if f"\n{heavy}==" in names
    ]
    code = "import sys, vibevoice_otel.instrumentor; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    assert _must(environment / "opentelemetry-instrument", environment / "python", "-c", code).strip() == "[]"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_the_installed_wheel_gives_a_trace(
    environment: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's own packages (lent by this environment, they are gigabytes) beside the installed wheel: one request,
    one trace.
    """
    site = Path(_must(environment / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "zz_lent.pth").write_text(f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n")
    monkeypatch.setattr(sys, "executable", str(environment / "python"))
    monkeypatch.chdir(environment)  # not the checkout: the wheel must be what is imported
    running = Running(receiver, CLEAN)
    try:
        _, trace = running.speak(text="Hello")
        assert trace.root.attributes["vibevoice.status"] == "success"
        assert trace.named("vibevoice.diffusion.step")
        where = _must(environment / "python", "-c", "import vibevoice_otel; print(vibevoice_otel.__file__)").strip()
        assert Path(where).is_relative_to(site)
    finally:
        running.stop()
