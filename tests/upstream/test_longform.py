"""The long-form model, as the PyPI package vibevoice 0.0.1 has it, with transformers 4.51.3, tiny and random, in its
own environment.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tools.overlay import make
from vibevoice_otel import semconv

pytestmark = pytest.mark.timeout(900)  # the first time the environment is made: transformers, on a busy machine
HERE = Path(__file__).parent
FRAMES, STEPS = 9, 4


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One script spoken by longform.py in that environment."""
    python = make("upstream")
    done = subprocess.run(
        [str(python), str(HERE / "longform.py"), str(tmp_path_factory.mktemp("longform")), str(FRAMES), str(STEPS)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def spans(report: dict[str, Any], span: semconv.Span) -> list[dict[str, Any]]:
    return sorted((each for each in report["spans"] if each["name"] == span.name), key=lambda each: each["start"])


def test_the_trace_has_every_call(report: dict[str, Any]) -> None:
    """Frames, steps, decodes, semantic encodes and passes are as many as the interpreter counted calls of."""
    calls, count = report["calls"], {span: len(spans(report, span)) for span in semconv.SPANS}
    assert count[semconv.FRAME] == calls["sample_speech_tokens"] == FRAMES
    assert count[semconv.STEP] == calls["step"] == FRAMES * STEPS
    assert count[semconv.DECODE] == calls["decode"] == FRAMES
    assert count[semconv.LM_FORWARD] + count[semconv.PREFILL] == calls["forward"]
    assert count[semconv.PREFILL] == 1
    assert count[semconv.SEMANTIC_ENCODE] == calls["encode"] - 1  # the voices' own encoding is part of the prefill
    assert count[semconv.CONNECTOR] == 2 * FRAMES  # an acoustic and a semantic one
    branches = Counter(each["attributes"][semconv.LM_BRANCH.key] for each in spans(report, semconv.LM_FORWARD))
    assert branches == {"negative": FRAMES, "positive": FRAMES - 1}
    assert count[semconv.SYNTHESIZE] == count[semconv.GENERATE] == count[semconv.PREPROCESS] == calls["generate"] == 1
    assert report["missing"] == report["left"] == []


def test_the_request_says_what_was_made(report: dict[str, Any]) -> None:
    """A call of generate is a request of its own, from the processor's call on: its text, its audio, its parameters."""
    (root,) = spans(report, semconv.SYNTHESIZE)
    said = root["attributes"]
    assert said[semconv.STATUS.key] == "success"
    assert said[semconv.TEXT_LENGTH.key] == report["characters"]
    assert (said[semconv.STEPS.key], said[semconv.CFG.key], said[semconv.FRAMES.key]) == (STEPS, 1.3, FRAMES)
    assert said[semconv.AUDIO_DURATION.key] == pytest.approx(report["samples"] / 24_000)
    assert report["samples"] == FRAMES * 3200
    (load,) = spans(report, semconv.MODEL_LOAD)
    assert load["attributes"][semconv.CACHE.key] == "miss"
    assert load["attributes"][semconv.GEN_AI_MODEL.key] == said[semconv.GEN_AI_MODEL.key]


def test_spans_nest_and_metrics_agree(report: dict[str, Any]) -> None:
    """Each span lies in its parent; each histogram has as many values as there are spans of its kind."""
    by_id = {each["id"]: each for each in report["spans"]}
    (root,) = spans(report, semconv.SYNTHESIZE)
    for each in report["spans"]:
        if each["trace"] == root["trace"] and each is not root:
            parent = by_id[each["parent"]]
            assert parent["start"] <= each["start"] <= each["end"] <= parent["end"], each["name"]
    for metric, span in (
        (semconv.INFERENCE, semconv.STEP),
        (semconv.DECODE_DURATION, semconv.DECODE),
        (semconv.PREFILL_DURATION, semconv.PREFILL),
        (semconv.PREPROCESS_DURATION, semconv.PREPROCESS),
        (semconv.MODEL_LOAD_DURATION, semconv.MODEL_LOAD),
        (semconv.RTF, semconv.SYNTHESIZE),
    ):
        assert report["metrics"][metric.name] == len(spans(report, span)), metric.name
