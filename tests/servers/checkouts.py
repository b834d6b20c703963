"""Make a runnable tree out of a checkout of somebody's server: its code as it is, tiny random weights, voices.

    python tests/servers/checkouts.py KIND FOLDER OUT      (FOLDER holds the checkouts)

Nothing is downloaded, no checkout is changed, and none of their code stands in this repository.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "upstream"))
STREAMING = "vibevoice/modular/modeling_vibevoice_streaming_inference.py"
OPENAI = "vibevoice_realtime_openai_api.py"
#: The presets that it fetches where they are missing.
OPENAI_VOICES = (
    "en-Carter_man", "en-Davis_man", "en-Emma_woman", "en-Frank_man", "en-Grace_woman", "en-Mike_man", "in-Samuel_man",
)  # fmt: skip


def find(folder: Path, *wanted: str) -> Path | None:
    """The checkout in ``folder`` that has these files."""
    return next(
        (
            each
            for each in sorted(folder.iterdir())
            if each.is_dir() and all((each / file).is_file() for file in wanted)
        ),
        None,
    )


#: Kind -> the files by which its checkouts are known: the server's, and the model package's.
KINDS = {
    "community": (("demo/gradio_demo.py", STREAMING), ("demo/gradio_demo.py", STREAMING)),
    "realtime-fastapi": (("overrides/app.py", "overrides/text_processing.py"), ("demo/web/app.py", STREAMING)),
    "openai-realtime": ((OPENAI,), ("demo/web/app.py", STREAMING)),
    "long-form-fastapi": (
        ("api/main.py", "api/routers/openai_tts.py"),
        ("api/main.py", "vibevoice/modular/streamer.py"),
    ),
}


def present(kind: str, folder: Path) -> bool:
    """Whether the checkouts of this kind are there."""
    return all(find(folder, *files) is not None for files in KINDS[kind])


def main(kind: str, folder: Path, out: Path) -> None:
    server, package = (find(folder, *files) for files in KINDS[kind])
    assert server is not None
    assert package is not None
    shutil.copytree(package / "vibevoice", out / "vibevoice", dirs_exist_ok=True)
    shutil.copytree(HERE / "shapes", out / "shapes", dirs_exist_ok=True)
    if kind == "realtime-fastapi":
        shutil.copytree(package / "demo" / "web", out / "demo" / "web", dirs_exist_ok=True)
        shutil.copytree(server / "overrides", out / "demo" / "web", dirs_exist_ok=True)
    if kind == "openai-realtime":
        shutil.copy2(server / OPENAI, out)
    if kind == "long-form-fastapi":
        shutil.copytree(server / "api", out / "api", dirs_exist_ok=True)
    sys.path.insert(0, str(out))
    if kind == "long-form-fastapi":
        _long_form(out)
        return
    import torch
    from make_tiny import VOICES, make_preset, make_streaming_model

    model = make_streaming_model(out / "model")
    presets = out / "voices" if kind == "openai-realtime" else out / "demo" / "voices" / "streaming_model"
    presets.mkdir(parents=True, exist_ok=True)
    for seed, voice in enumerate(OPENAI_VOICES if kind == "openai-realtime" else VOICES):
        torch.save(make_preset(model, seed), presets / f"{voice}.pt")


def _long_form(out: Path) -> None:
    import wave

    import numpy as np
    from longform import make_model

    make_model(out / "model")
    (out / "voices").mkdir(exist_ok=True)
    for name in ("en-Alice_woman", "en-Bob_man"):
        with wave.open(str(out / "voices" / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(24_000)
            file.writeframes((3000 * np.sin(np.linspace(0, 900, 24_000))).astype(np.int16).tobytes())


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve())
