"""What Grafana's tables show, by Grafana's own code: npm's @grafana/data of compose's version, run by Node.js.

The packages are installed once, below the cache's folder, as package-lock.json pins them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.toolchain import cache

HERE: Final = Path(__file__).resolve().parent
MANIFESTS: Final = ("package.json", "package-lock.json")
Frame = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table as it is drawn: its head, its values, their text, and the colours of the text's cells."""

    name: str
    type: str
    values: list[Any]
    text: list[str]
    colour: list[str | None]


def packages() -> Path:
    """Folder with node_modules; installs them when they are not there.

    Raises:
        FileNotFoundError: Node.js or npm is not on PATH.
        subprocess.CalledProcessError: npm could not install (its message is on standard error).
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"{program} is not on PATH: install Node.js")
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in MANIFESTS)).hexdigest()[:16]
    folder = cache.root() / "tools" / f"grafana-data-{digest}"
    done = folder / "installed"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in MANIFESTS:
            shutil.copy(HERE / name, folder / name)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        done.touch()
    return folder


def table_frames(results: Iterable[tuple[str, list[dict[str, Any]]]]) -> list[Frame]:
    """Instant vectors of Prometheus as its data source hands them to a table: time, labels, value; a frame for each
    query.

    Args:
        results: (refId, ``data.result`` of the API's answer) of each query.
    """
    answers = list(results)
    frames = []
    for letter, rows in answers:
        labels = sorted({name for row in rows for name in row["metric"]})
        value = "Value" if len(answers) == 1 else f"Value #{letter}"
        fields = [
            {"name": "Time", "type": "time", "config": {}, "values": [row["value"][0] * 1000 for row in rows]},
            *(
                {"name": name, "type": "string", "config": {}, "values": [row["metric"].get(name) for row in rows]}
                for name in labels
            ),
            {"name": value, "type": "number", "config": {}, "values": [float(row["value"][1]) for row in rows]},
        ]
        if rows:
            frames.append({"refId": letter, "fields": fields})
    return frames


def shown(panel: Mapping[str, Any], frames: list[Frame]) -> list[Column]:
    """The columns that a table panel (as in dashboards/generated) shows of these frames, from left to right."""
    text = json.dumps({"panel": panel, "frames": frames}, allow_nan=False)
    command = ["node", str(HERE / "transform.mjs"), str(packages())]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[1]} failed:\n{done.stderr}")
    return [
        Column(each["name"], each["type"], each["values"], each["text"], each["colour"])
        for each in json.loads(done.stdout)
        if not each["hidden"]
    ]
