"""`make stack` with a Tempo needs no root: whatever Tempo writes lies in the stack's own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.stack.tempo import CONFIG, DATA, Tempo

#: Everything that Tempo 3.1 keeps in /var/tempo when its configuration does not say where: dotted path of the setting.
FOLDERS = {
    "storage.trace.local.path",
    "storage.trace.wal.path",
    "live_store.wal.path",
    "live_store.shutdown_marker_dir",
    "block_builder.wal.path",
    "backend_scheduler.local_work_path",
}
#: Stands for Tempo, of which no package registry has a binary: answers /ready, fails for a folder that is not beside
#: its configuration.
PROGRAM = """#!/usr/bin/env python3
import http.server, pathlib, re, sys
file = pathlib.Path(sys.argv[1].partition("=")[2])
text = file.read_text()
outside = [each for each in re.findall(r": (/\\S+)", text) if not each.startswith(str(file.parent))]
if outside:
    sys.exit(f"outside of the folder: {outside}")
port = int(re.search(r"http_listen_port: (\\d+)", text)[1])
handler = http.server.SimpleHTTPRequestHandler
handler.do_GET = lambda self: (self.send_response(200), self.end_headers())
http.server.HTTPServer(("127.0.0.1", port), handler).serve_forever()
"""


def settings(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {
        key: each for name, inner in value.items() for key, each in settings(inner, f"{path}.{name}".strip(".")).items()
    }


def test_the_shipped_configuration_names_every_folder() -> None:
    """None is left to Tempo's own defaults, which the stack could not move."""
    shipped = settings(yaml.safe_load(CONFIG.read_text()))
    assert {key for key, value in shipped.items() if str(value).startswith(DATA)} == FOLDERS


def test_the_stack_s_tempo_writes_nothing_outside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder of the configuration that it starts with is below the stack's; two stacks share none."""
    program = tmp_path / "bin" / "tempo"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    with Tempo(tmp_path / "one") as one, Tempo(tmp_path / "two") as two:
        assert one.process.running
        assert two.process.running
    written = settings(yaml.safe_load((tmp_path / "one" / "tempo.yaml").read_text()))
    assert all(written[key].startswith(str(tmp_path / "one")) for key in FOLDERS)
