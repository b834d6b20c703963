"""The page beside the unmodified upstream realtime server (its double here, the checkout where there is one)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.running import Running, opened, speak, until
from tests.upstream.server import serve
from tests.upstream.sink import Sink
from tests.upstream.trees import make_double
from tools.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def test_the_page_speaks_to_the_upstream_server(tab: Page, tmp_path: Path) -> None:
    """Nothing is asked of the service but its socket and /config: it is heard,
    seen and listed as the embedded one is.
    """
    port = free_port()
    tree = make_double(tmp_path / "tree")
    with (
        Sink() as sink,
        serve(tree, sink, tmp_path, environment={"VIBEVOICE_OTEL_PAGE": f"127.0.0.1:{port}"}) as server,
    ):
        running = Running(server.port, port, server.process, server.log_file, sink)
        opened(tab, running)
        speak(tab, "Good day to you.")
        session = tab.evaluate("(({outcome, chunks, played}) => ({outcome, chunks, played}))(window.vibevoice.session)")
        until(tab, "window.vibevoice.trace.summary?.listener")
        summary = tab.evaluate("window.vibevoice.trace.summary")
    assert session["outcome"] == "complete"
    assert session["chunks"] > 3
    assert session["played"] == pytest.approx(summary["audio"], abs=0.01)
    assert summary["status"] == "success"
    assert summary["listener"]["outcome"] == "complete"
