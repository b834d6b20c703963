"""`make e2e-platform`: what needs minutes of building; elsewhere skipped, even where it happens to be built."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.stack.fixtures import *  # noqa: F403


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("VIBEVOICE_E2E_PLATFORM") == "1":
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(
                pytest.mark.skip(reason="run `make e2e-platform` (builds Kubernetes' API, Jaeger and VictoriaMetrics)")
            )
