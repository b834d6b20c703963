"""Forks by what their classes are: another package, relative copies, renamed classes, subclasses, transformers'
realtime port.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.upstream.trees import DOUBLE
from vibevoice_otel import semconv

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("fork", ["vvembed", "relative", "renamed", "subclass", "windowed"])
def test_a_fork_is_observed(fork: str, tmp_path: Path) -> None:
    """Two generations: each is a request, its frames, steps and decodes those that the interpreter counted, none of
    them twice.
    """
    shutil.copytree(DOUBLE / "vibevoice", tmp_path / "vibevoice")
    done = subprocess.run(
        [sys.executable, "-m", "tests.servers.forks", str(tmp_path), fork],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DOUBLE_FRAME_SECONDS": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    spans, calls = seen["spans"], seen["calls"]
    assert spans[semconv.SYNTHESIZE.name] == spans[semconv.GENERATE.name] == spans[semconv.PREPROCESS.name] == 2, (
        done.stderr
    )
    assert spans[semconv.FRAME.name] == calls["sample_speech_tokens"] + calls["_diffuse"] > 0
    assert spans[semconv.STEP.name] == calls["step"]
    assert spans[semconv.DECODE.name] == calls["decode"]
    assert all(root[semconv.AUDIO_DURATION.key] > 0 and root[semconv.TEXT_LENGTH.key] == 35 for root in seen["roots"])
    assert [root[semconv.CFG.key] for root in seen["roots"]] == [1.25, 1.25]
    assert any(point.endswith("generate") for point in seen["points"]), "doctor lists the class"
