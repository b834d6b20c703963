"""The observed tree (the double; the checkout when $VIBEVOICE_UPSTREAM names one) and a running server in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .server import Server, serve
from .sink import Sink
from .trees import Tree, make_checkout, make_double

UPSTREAM = os.environ.get("VIBEVOICE_UPSTREAM")
NO_CHECKOUT = pytest.mark.skipif(
    not UPSTREAM, reason="no checkout of microsoft/VibeVoice: make test-upstream UPSTREAM=path"
)
TREES = ["double", pytest.param("checkout", marks=[pytest.mark.upstream, NO_CHECKOUT])]


@pytest.fixture(scope="session", params=TREES)
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """What is observed."""
    out = tmp_path_factory.mktemp(request.param)
    if request.param == "double":
        return make_double(out)
    assert UPSTREAM
    return make_checkout(Path(UPSTREAM).resolve(), out)


#: The second server has to find its own way into the threads, and drains every request many times while it runs.
SERVERS = {
    "threading": {},
    "no-threading-drained": {
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "threading",
        "VIBEVOICE_OTEL_DRAIN_INTERVAL": "0.1",
    },
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tree: Tree, tmp_path_factory: pytest.TempPathFactory):
    """``opentelemetry-instrument uvicorn demo.web.app:app``."""
    where = tmp_path_factory.mktemp("server")
    with Sink() as receiver, serve(tree, receiver, where, environment=SERVERS[request.param]) as running:
        yield running


@pytest.fixture
def sink(server: Server) -> Sink:
    """What the server has sent."""
    return server.sink


__all__ = ["Server", "server", "sink", "tree"]
