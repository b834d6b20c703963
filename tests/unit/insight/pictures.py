"""Draws the pictures of docs/insight.md from a simulated service: ``python -m tests.unit.insight.pictures
docs/images``.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from tests.unit.insight.simulator import MemorySource, Service, Setting, observe
from vibevoice_otel.insight import plots
from vibevoice_otel.insight.capacities import capacity
from vibevoice_otel.insight.compare.report import Labelled, compare
from vibevoice_otel.insight.profiles import voices

NAMES = (
    "en-Carter_man",
    "en-Emma_woman",
    "en-Mike_man",
    "de-Spk0_man",
    "fr-Spk1_woman",
    "in-Samuel_man",
    "jp-Spk0_man",
    "kr-Spk1_man",
)
SETTINGS = tuple(
    Setting(
        voice=name,
        cfg=cfg,
        steps=steps,
        share=2.0 if name.startswith("en") else 0.5,
        failing=0.06 if name == "de-Spk0_man" else 0.008,
        first=0.17 + 0.005 * int(steps) + (0.03 if name == "jp-Spk0_man" else 0.0),
        factor=0.8 + 0.04 * int(steps),
    )
    for name in NAMES
    for cfg in ("1.3", "2.0")
    for steps in ("5", "10")
)
SERVICE = Service(rate=0.6, slots=12, base=0.45, memory_base=4, memory_stream=1.1, hours=6, settings=SETTINGS)


def main(folder: str) -> None:
    source = MemorySource(observe(SERVICE, 1))
    plots.save(capacity(source, streams=20, concurrency=12), f"{folder}/insight-capacity.png")
    plots.save(voices(source), f"{folder}/insight-voices.png")
    after = replace(SERVICE, settings=tuple(replace(each, first=each.first * 1.06) for each in SETTINGS))
    sides = (Labelled(source, "version 1.2"), Labelled(MemorySource(observe(after, 2)), "version 1.3"))
    plots.save(compare(*sides), f"{folder}/insight-compare.png")


if __name__ == "__main__":
    main(sys.argv[1])
