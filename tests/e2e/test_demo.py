"""``vibevoice-otel demo``, as the README's first command runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.serial  # the demo takes the default ports where they are free


def test_a_single_request_is_shown_whole() -> None:
    """The root and the spans below it come in exports of their own: the demo waits for all of them."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VIBEVOICE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "vibevoice_otel", "demo", "--once", "--requests", "1"],
        env={**clean, "COLUMNS": "80"}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    shown = re.sub(r"\s+", " ", done.stdout)
    for name in ("HTTP /stream", "synthesize", "model.load miss", "diffusion.step ×5", "decode", "first_chunk"):
        assert name in shown, done.stdout
    assert "│ en-Carter_man │ 1 │" in shown
    assert "Requests: 1, traces: 1" in shown
