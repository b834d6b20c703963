"""Hooks come, go without a trace, and may be missing: each costs its own part and one warning, never the service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vibevoice_otel import semconv

from .server import REPOSITORY
from .trees import Tree

pytestmark = pytest.mark.timeout(900)  # a dozen processes that each import torch, on a machine that may be busy
HERE = Path(__file__).parent
#: What an upstream release might rename -> the spans that are then missing, and whether a warning is due.
RENAMED: Mapping[str, tuple[frozenset[str], bool]] = {
    "sample_speech_tokens": (frozenset(), True),  # frames are then told apart by set_timesteps
    "forward_lm": (frozenset({semconv.PREFILL.name}), True),
    "forward_tts_lm": (frozenset({semconv.PREFILL.name, semconv.LM_FORWARD.name}), True),
    "set_ddpm_inference_steps": (frozenset(), True),
    "SpeechConnector": (frozenset({semconv.CONNECTOR.name}), True),
    "AudioStreamer": (frozenset(), True),
    "AudioSampleIterator": (frozenset(), True),
    "_prepare_inputs": (frozenset({semconv.PREPROCESS.name}), True),
    "_run_generation": (frozenset(), True),
    "StreamingTTSService": (frozenset(), False),  # found by what it can do
}
EVERY = {
    semconv.SYNTHESIZE, semconv.VOICE_LOAD, semconv.PREPROCESS, semconv.GENERATE, semconv.PREFILL, semconv.FRAME,
    semconv.STEP, semconv.DECODE, semconv.CONNECTOR, semconv.LM_FORWARD,
}  # fmt: skip


def inside(tree: Path) -> dict[str, Any]:
    """Run inside.py in ``tree``; its report."""
    done = subprocess.run(
        [sys.executable, str(HERE / "inside.py"), str(tree)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def report(tree: Tree) -> dict[str, Any]:
    return inside(tree.path)


@pytest.fixture(scope="session")
def renamed(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The report of a tree in which one name is another throughout, for each name."""

    def rename(name: str) -> dict[str, Any]:
        copy = tmp_path_factory.mktemp("renamed") / "tree"
        shutil.copytree(tree.path, copy)
        for file in copy.rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            file.write_text(re.sub(rf"\b{name}\b", f"{name}2", text), encoding="utf-8")
        return inside(copy)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(RENAMED, pool.map(rename, RENAMED), strict=True))


def test_uninstrumenting_restores_every_function(report: dict[str, Any]) -> None:
    """Not one function of upstream or Starlette differs afterwards, though instrumented twice, and the service speaks
    on.
    """
    assert len(report["hooked"]) >= 20
    assert report["left"] == []
    assert report["unobserved"] > 0
    assert report["warnings"] == []
    assert [where for _, where, found in report["points"] if not found] == []


def test_a_program_without_a_socket_is_observed(report: dict[str, Any]) -> None:
    """A script that uses the service directly has its request's trace, and the model's and the voices' loads theirs; no
    objective.
    """
    assert report["counters"][semconv.REQUESTS.name] == 1
    assert report["counters"].get(semconv.FIRST_AUDIO_SLI.name, 0) == 0
    names = [span["name"] for span in report["spans"]]
    assert {span.name for span in EVERY} <= set(names)
    assert names.count(semconv.SYNTHESIZE.name) == 1
    (root,) = [span for span in report["spans"] if span["name"] == semconv.SYNTHESIZE.name]
    assert root["attributes"][semconv.STATUS.key] == "success"
    assert root["attributes"][semconv.VOICE.key] == "en-Emma_woman"
    assert root["attributes"][semconv.STEPS.key] == 3
    loads = [span for span in report["spans"] if span["trace"] != root["trace"]]
    assert {(span["name"], span["attributes"][semconv.CACHE.key]) for span in loads} == {
        (semconv.MODEL_LOAD.name, "miss"),
        (semconv.VOICE_LOAD.name, "miss"),
    }


@pytest.mark.parametrize("name", RENAMED)
def test_a_renamed_function_costs_its_part_and_one_warning(
    report: dict[str, Any], renamed: dict[str, dict[str, Any]], name: str
) -> None:
    """Whatever upstream renames, the service speaks as before, the rest is measured in the same trace, and one warning
    names it.
    """
    lost, warned = RENAMED[name]
    seen = renamed[name]
    assert seen["chunks"] == report["chunks"]
    assert len(seen["warnings"]) == warned, seen["warnings"]
    assert all(name in warning for warning in seen["warnings"])
    assert [name in where for _, where, found in seen["points"] if not found] == [True] * warned
    (root,) = [span for span in seen["spans"] if span["name"] == semconv.SYNTHESIZE.name]
    ours = {span["name"] for span in seen["spans"] if span["trace"] == root["trace"]}
    assert {span.name for span in EVERY} - ours == lost
    assert root["attributes"][semconv.STATUS.key] == "success"
    frames = {
        one: sum(span["name"] == semconv.FRAME.name for span in of["spans"])
        for one, of in (("now", seen), ("then", report))
    }
    assert frames["now"] == frames["then"]
    assert seen["left"] == []


def test_doctor_tells_which_hooks_are_there(tree: Tree) -> None:
    """In upstream's folder doctor imports its server and model, and finds every hook."""
    code = "import sys; from vibevoice_otel.commands import doctor; sys.exit(doctor.main(['--hooks']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree.path,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": f"{tree.path}{os.pathsep}{REPOSITORY}",
            "COLUMNS": "250",
            "OMP_NUM_THREADS": "1",
        },
        timeout=600,
        check=False,
    )
    rows = [line for line in done.stdout.splitlines() if "found" in line]
    for where in (
        "StreamingTTSService.stream",
        "sample_speech_tokens",
        "DPMSolverMultistepScheduler.step",
        "AudioStreamer.put",
    ):
        assert any(where in row for row in rows), done.stdout + done.stderr
    assert not [line for line in done.stdout.splitlines() if line.rstrip().endswith("missing")]
