"""The two things that the tests observe: the double, and a checkout of upstream with tiny weights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DOUBLE = HERE / "double"
VOICES = ("de-Spk0_man", "en-Carter_man", "en-Emma_woman", "fr-Spk1_woman")
BROKEN, CORRUPT, HEADLESS = "zz-Broken_man", "zz-Corrupt_man", "zz-Headless_man"


@dataclass(frozen=True)
class Tree:
    """A folder from which ``uvicorn demo.web.app:app`` runs."""

    name: str
    path: Path

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def is_double(self) -> bool:
        return self.name == "double"


def make_double(out: Path) -> Tree:
    """Copy the double and give it voices, three of which fail like the checkout's."""
    import torch

    shutil.copytree(DOUBLE, out, dirs_exist_ok=True)
    (out / "model").mkdir(exist_ok=True)
    presets = out / "demo" / "voices" / "streaming_model"
    presets.mkdir(parents=True)
    for seed, voice in enumerate((*VOICES, BROKEN, HEADLESS)):
        generator = torch.Generator().manual_seed(seed)
        prompt = {
            name: torch.randn(1, tokens, 16, generator=generator) for name, tokens in (("tts_lm", 148), ("neg_lm", 1))
        }
        missing = {BROKEN: "neg_lm", HEADLESS: "tts_lm"}.get(voice)
        torch.save({name: part for name, part in prompt.items() if name != missing}, presets / f"{voice}.pt")
    (presets / f"{CORRUPT}.pt").write_bytes(b"not a voice")
    return Tree("double", out)


def make_checkout(upstream: Path, out: Path) -> Tree:
    """Tiny weights for the checkout, made in a process of its own (it imports upstream's package)."""
    subprocess.run(
        [sys.executable, str(HERE / "make_tiny.py"), str(upstream), str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    return Tree("checkout", out)
