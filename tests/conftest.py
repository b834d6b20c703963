"""What every test shares: in CI a skip is an error, unless what it needs cannot be had there."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator

import pytest

from vibevoice_otel import failures

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
    "make test-servers",
    "make e2e-platform",
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


#: Tests of which it is known that those which want a failure are marked; the others are not held to it yet.
LOOKED_THROUGH = (
    "tests/lifecycle/",
    "tests/unit/hooks/",
    "tests/unit/metrics/",
    "tests/unit/recording/test_recorder.py",
    "tests/unit/sampling/test_tail.py",
    "tests/unit/test_installation.py",
    "tests/unit/web/test_fail_safe.py",
    "tests/unit/web/test_routes.py",
)


class _Swallowed(logging.Handler):
    """Failures that production swallows: those of failures.py, and any other that a logger of ours tells with an
    exception.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.met: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.exc_info, tuple):
            self.met.append(f"{record.getMessage()}\n{''.join(traceback.format_exception(*record.exc_info))}")

    def failed(self, where: str, error: BaseException) -> None:
        self.met.append(f"{where}\n{''.join(traceback.format_exception(error))}")


@pytest.fixture(autouse=True)
def _never_breaks_the_host_always_breaks_the_test(
    request: pytest.FixtureRequest,
) -> Iterator[None]:
    """A failure of ours that the host would not notice fails the test in which it happens, unless that is marked
    ``swallows``.
    """
    within = request.node.nodeid.startswith(LOOKED_THROUGH)
    if request.node.get_closest_marker("swallows") or not within:
        yield
        return
    swallowed, tell = _Swallowed(), failures.warn_once

    def warn_once(where: str, error: BaseException) -> None:
        swallowed.failed(where, error)
        tell(where, error)

    own = logging.getLogger("vibevoice_otel")
    own.addHandler(swallowed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failures, "warn_once", warn_once)
        yield
    own.removeHandler(swallowed)
    assert not swallowed.met, "swallowed in this test:\n" + "\n".join(swallowed.met)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(need in reason for need in MAY_LACK):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where nothing may be missing but {', '.join(MAY_LACK)}: {reason}"
