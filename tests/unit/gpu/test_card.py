"""The card's benchmark runs as a whole, its card made up: on a real one it must run at the first try."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import card, card_cost, card_limit, card_workers, gpu
from tests.fake_gpu import plugin
from tests.fake_gpu.plugin import LiveGpu, Now
from vibevoice_otel.recording import device

WORKER = """
import sys, time
from benchmarks import card_workers, gpu
if sys.argv[1] == "burn":
    print("worker ready", flush=True)
    time.sleep(60)
card_workers.serve_worker(sys.argv[1], lambda: gpu.Subject.build("cpu", tiny=True))
"""


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    memory = tmp_path / "memory.json"
    plugin.set_memory(memory)
    monkeypatch.setenv(plugin.MEMORY, str(memory))
    live: Any = LiveGpu(host=Now())
    for kind in ("cpu", "cuda"):
        monkeypatch.setitem(device.OPENERS, kind, lambda _index: live)
    monkeypatch.setattr(device, "_devices", {})
    monkeypatch.setattr(gpu, "no_card", lambda: None)
    monkeypatch.setattr(gpu, "truths", lambda _trace: [gpu.Truth(1000.0, 250.0)])
    monkeypatch.setattr(card, "build", lambda: gpu.Subject.build("cpu", tiny=True))
    monkeypatch.setattr(card_workers, "WORKER", (sys.executable, "-W", "ignore", "-c", WORKER))
    monkeypatch.setattr(card, "PROCESSES", (1, 2))
    monkeypatch.setattr(card, "ROUND_SECONDS", 0.2)
    monkeypatch.setattr(card_limit, "SLOW_MS", 1.0)
    monkeypatch.setattr(card_limit, "TURNS", 1)
    monkeypatch.setattr(card_cost, "SECONDS", 0.0)
    monkeypatch.setattr(
        card_limit, "matrix_products", lambda milliseconds: (lambda: time.sleep(milliseconds / 1000), lambda: None)
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "a made-up card")
    return tmp_path


@pytest.mark.timeout(300)
def test_the_whole_of_it_runs(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is in the report; the one that this machine cannot do (NVML) is said in its place."""
    monkeypatch.setattr(sys, "argv", ["card", "--frames", "4", "--out", str(made_up)])
    before = set(threading.enumerate())
    card.main()
    text = (made_up / "card.txt").read_text()
    assert "a made-up card, the demo's tiny architecture" in text
    assert "as the model runs: the most that a faster card could save" in text
    assert "four streams in this process" in text
    assert "a faster card saves at most what the waiting says" in text
    assert "kernels at work, of its steps" in text
    assert "longest frame of a stream beside a sampled one" in text
    assert "2 processes, frames a second" in text
    assert "nvml: not done" in text
    raw = json.loads((made_up / "card.json").read_text())["raw"]
    assert raw["sample"]["first"]["share_frame"] == pytest.approx(0.25, abs=0.03)
    assert raw["limit"]["as the model runs"]["host_us"]["step to step"]["n"] > 0
    assert "8 streams: lost, by pairs" in text
    assert raw["cost"]["hooks_s"] > 0
    assert min(raw["cost"]["round_s"]) > 0
    assert sum(raw["processes"]["frames_per_second"]["2"]) > 0
    assert set(threading.enumerate()) <= before
