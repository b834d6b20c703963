"""One service and one browser for all tests of the page; each test gets a fresh tab, in which nothing may go wrong
unsaid.

They end with this package: while playwright runs, its event loop keeps every asyncio test of the process from running.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")

from tests.browser.running import MISSING, Running, browsing, chromium, opened, serving  # noqa: E402 - needs playwright

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SLOW, CORRUPT = "fr-Spk0_man", "de-Spk0_man"


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip(MISSING)  # in CI a skip is a failure
    with browsing() as running:
        yield running


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Running]:
    """One place and no waiting line, so that a second request is refused; one slow voice, one that cannot be loaded."""
    faults = {"slow_voices": {SLOW: 0.04}, "corrupt_voices": [CORRUPT]}
    limits = {
        "VIBEVOICE_SERVICE_CONCURRENCY": "1",
        "VIBEVOICE_SERVICE_QUEUE": "0",
        "VIBEVOICE_OTEL_PAGE_LISTENER": "true",
    }
    with serving(tmp_path_factory.mktemp("service"), faults, **limits) as running:
        yield running


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A tab of its own; an error of a script, or a break of the page's policy, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(120_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None
    )
    yield page
    context.close()
    assert wrong == []


@pytest.fixture
def page(tab: Page, service: Running) -> Page:
    """The live page, ready to speak."""
    return opened(tab, service)
