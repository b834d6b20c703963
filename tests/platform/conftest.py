"""`make e2e-platform`: what needs minutes of building; elsewhere skipped, even where it happens to be built."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.harness import Sink
from tests.stack.fixtures import *  # noqa: F403
from tests.stack.fixtures import eventually
from tools.kubernetes import chart, crds
from tools.kubernetes.api import Kubernetes, RefusedError


@pytest.fixture
def sink() -> Iterator[Sink]:
    """Where a pod's telemetry arrives."""
    receiver = Sink()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """The API with the operators' definitions and the chart's namespace."""
    with Kubernetes(tmp_path_factory.mktemp("kubernetes")) as api:
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": chart.NAMESPACE}})
        for definition in crds.definitions():
            api.create(definition)
            name, group = definition["metadata"]["name"], definition["spec"]["group"]
            version = definition["spec"]["versions"][0]["name"]
            assert eventually(lambda group=group, version=version: _served(api, group, version), 30), name
        yield api


def _served(api: Kubernetes, group: str, version: str) -> bool:
    with contextlib.suppress(RefusedError):
        return bool(api.request("GET", f"/apis/{group}/{version}")["resources"])
    return False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("VIBEVOICE_E2E_PLATFORM") == "1":
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(
                pytest.mark.skip(reason="run `make e2e-platform` (builds Kubernetes' API, Jaeger and others)")
            )
