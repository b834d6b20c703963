"""Take docs/images/live-page-*.png of the real page with the real demo service: ``make screenshots``."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser.running import MISSING, REPOSITORY, browsing, chromium, opened, serving, speak, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = REPOSITORY / "docs" / "images"
SENTENCES = (
    ("Every word that you hear took a few steps of diffusion.", "en-Carter_man"),
    ("A second voice, for comparison.", "en-Emma_woman"),
    ("Bonjour.", "fr-Spk0_man"),
    ("Something that fails.", "de-Spk0_man"),
    ("The same voice once more, now that it is in memory.", "en-Emma_woman"),
    ("And the first one again.", "en-Carter_man"),
    (
        "Hello! Every word that you hear took a few steps of diffusion, and you can watch each one of them.",
        "en-Carter_man",
    ),
)


def picture(
    page: Page, name: str, *, width: int = 1280, height: int = 1000, dark: bool = False, whole: bool = False
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.evaluate("window.scrollTo(0, 0)")
    page.mouse.move(2, 2)
    time.sleep(0.5)  # the page redraws for its new size
    page.screenshot(path=IMAGES / f"live-page-{name}.png", full_page=whole)
    sys.stdout.write(f"docs/images/live-page-{name}.png\n")


def main() -> int:
    """1 when there is no Chromium."""
    if chromium() is None:
        sys.stderr.write(f"{MISSING}\n")
        return 1
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as where,
        serving(Path(where), {"corrupt_voices": ["de-Spk0_man"]}) as service,
        browsing() as browser,
    ):
        page = opened(browser.new_page(), service)
        for text, voice in SENTENCES[:-1]:
            speak(page, text, voice)
        speak(page, *SENTENCES[-1], wait=False)
        until(page, "window.vibevoice.trace?.phase === 'speaking'")
        time.sleep(0.2)
        picture(page, "speaking")
        until(page, "window.vibevoice.session.reported !== undefined", 60)
        picture(page, "light", height=1120)
        picture(page, "dark", dark=True, whole=True)
        picture(page, "phone", width=390, height=844, whole=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
