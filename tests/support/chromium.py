"""A real Chromium, Debian's, driven by Playwright; it may talk to nobody but the page under test."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from needs import lacking

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def chromium(profile: Path, width: int = 1600, height: int = 1000) -> Iterator[Any]:
    """A browser window with an empty profile."""
    program = shutil.which("chromium")
    if program is None:
        lacking("no chromium (Debian package chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("no playwright (dependency group dev)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=program,
            headless=True,
            viewport={"width": width, "height": height},
            args=list(QUIET),
        )
        try:
            yield browser
        finally:
            browser.close()
