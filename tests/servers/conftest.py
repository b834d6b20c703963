"""The double of the model with the shapes beside it, and each shape served as a user serves it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.upstream.server import Server, serve
from tests.upstream.sink import Sink
from tests.upstream.trees import Tree, make_double

SHAPES = Path(__file__).parent / "shapes"


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    made = make_double(tmp_path_factory.mktemp("double"))
    shutil.copytree(SHAPES, made.path / "shapes")
    return made


@pytest.fixture(scope="module")
def running(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """``running(shape)``: the server of that name, started when it is first asked for in this environment."""
    with ExitStack() as stack:
        servers: dict[object, Server] = {}

        def start(shape: str, **environment: str) -> Server:
            key = shape, *sorted(environment.items())
            if key not in servers:
                sink = stack.enter_context(Sink())
                command = (sys.executable, "-m", "uvicorn", f"shapes.{shape}:app", "--host", "127.0.0.1", "--port", "0")
                where = tmp_path_factory.mktemp(shape)
                servers[key] = stack.enter_context(
                    serve(
                        tree, sink, where, command=command, environment={"DOUBLE_FRAME_SECONDS": "0.01", **environment}
                    )
                )
            return servers[key]

        yield start
