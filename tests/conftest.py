"""What every test shares: in CI a skip is an error, unless what it needs cannot be had there."""

from __future__ import annotations

import os

import pytest

#: The only needs that a CI machine may lack.
MAY_LACK = (
    "a GPU",
    "a quiet machine",
    "CUDA",
    "Docker",
    "TEMPO_URL",
    "GRAFANA_URL",
    "UPSTREAM",
    "make test-agents",
    "Weaver",
    "mounting a file system",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests run on request alone: ``make soak`` (-m soak)."""
    if "soak" in (config.getoption("markexpr") or ""):
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=soak)
    items[:] = [item for item in items if item not in soak]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(need in reason for need in MAY_LACK):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where nothing may be missing but {', '.join(MAY_LACK)}: {reason}"
