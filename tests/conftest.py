"""What every test shares: in CI a skip is an error, unless what it needs cannot be had there; a failure that production
swallows is an error, unless the test wants it; and the clock stays as it is.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.swallowed import swallowed

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
    "make musl-python",
    "Weaver",
    "mounting a file system",
)


def pytest_configure() -> None:
    """Programs that tests end by SIGINT end: a shell's background job ignores it, and what it starts inherits that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests run on request alone: ``make soak`` (-m soak)."""
    if "soak" in (config.getoption("markexpr") or ""):
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=soak)
    items[:] = [item for item in items if item not in soak]


#: What a test may patch, and leaves as it was.
CLOCK = {
    name: getattr(time, name) for name in dir(time) if name.removesuffix("_ns") in {"time", "monotonic", "perf_counter"}
}


def patched_clock() -> list[str]:
    """Put the clock back; return what of it was another one's."""
    changed = [name for name, real in CLOCK.items() if getattr(time, name) is not real]
    for name in changed:
        setattr(time, name, CLOCK[name])
    return changed


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """A module that patches the clock while it is imported patches it for every test of the session."""
    report = yield
    if changed := patched_clock():
        report.outcome, report.longrepr = (
            "failed",
            f"{collector.nodeid} patches time.{', time.'.join(changed)} on import",
        )
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Listen to what is swallowed from the first fixture of a test to the last."""
    with swallowed.listening():
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """A failure of ours that the host would not notice fails the test in which it happens, unless the marker
    ``swallows`` holds a part of what it says.
    """
    yield
    wanted = [text for mark in item.iter_markers("swallows") for text in mark.args]
    unwanted = [each for each in swallowed.take() if not any(text in each for text in wanted)]
    assert not unwanted, "swallowed in this test:\n" + "\n".join(unwanted)
    changed = patched_clock()
    assert not changed, f"this test leaves time.{', time.'.join(changed)} patched"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(need in reason for need in MAY_LACK):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where nothing may be missing but {', '.join(MAY_LACK)}: {reason}"
