"""Instructions of the cheap benchmarks, counted by valgrind's callgrind: stable where clocks are not, so that CI can
compare them.

``python -m benchmarks.instructions`` counts; ``--record`` writes what it found as the baseline of this Python version.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASELINE = Path(__file__).with_name("instructions.json")
#: What is counted -> repetitions of the shorter and the longer run; their difference is the work alone.
WORK = {
    "floor": (500, 10_500),
    "hook": (500, 10_500),
    "frame": (100, 1100),
    "encode": (5, 105),
    "request": (10, 60),
    "card": (160, 480),
}
UNIT = {
    "floor": "a step",
    "hook": "a step",
    "frame": "a frame of 5 steps",
    "encode": "a block of 80 spans",
    "request": "2 s of audio",
    "card": "a frame of 10 steps on a card, one of eight streams",
}


def available() -> bool:
    return shutil.which("valgrind") is not None


def python_version() -> str:
    return f"{platform.python_implementation()} {sys.version_info.major}.{sys.version_info.minor}"


def count(names: tuple[str, ...] = tuple(WORK)) -> dict[str, float]:
    """Instructions of one repetition of each. The two runs of each are made side by side, to be done sooner.

    Raises:
        RuntimeError: when callgrind gave no count; the message holds the end of its output.
    """
    found = {}
    for name in names:
        few, many = WORK[name]
        runs = [_start(name, times) for times in (few, many)]
        fewer, more = (_collected(run) for run in runs)
        found[name] = (more - fewer) / (many - few)
    return found


def _start(name: str, times: int) -> subprocess.Popen[str]:
    command = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        sys.executable,
        "-m",
        "benchmarks.counted",
        name,
        str(times),
    ]
    # The exporters' threads wake by the clock, more often in a run that a busy machine makes slower: not within a
    # count.
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",
    }
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _collected(run: subprocess.Popen[str]) -> int:
    output, _ = run.communicate()
    match = re.search(r"Collected : (\d+)", output)
    if run.returncode or match is None:
        raise RuntimeError(f"callgrind counted nothing: {output[-2000:]}")
    return int(match.group(1))


def baseline() -> dict[str, float] | None:
    """What was recorded for this Python version, None when nothing was."""
    recorded: dict[str, dict[str, float]] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    return recorded.get(python_version())


def main() -> None:
    found = count()
    for name, value in found.items():
        print(f"{name:8} {value:10,.0f} instructions {UNIT[name]}")
    print(f"hook / floor {found['hook'] / found['floor']:.2f}")
    if "--record" in sys.argv:
        recorded = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
        recorded[python_version()] = {name: round(value) for name, value in found.items()}
        BASELINE.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
