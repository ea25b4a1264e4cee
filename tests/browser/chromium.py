"""Which browser there is, and how it is started: without a word to its maker."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",  # CI is often root in a container; these pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-domain-reliability",
    # Names of other machines are not even looked up.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
MISSING = (
    "no Chromium here: install your system's package of it (as root on Debian: make browser), "
    "or say where it is: CHROMIUM=/path/to/it"
)


def find() -> str | None:
    """The browser's path: CHROMIUM if that is set, else the first on PATH."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


@asynccontextmanager
async def started() -> AsyncIterator[Browser]:
    """A headless browser with a new, empty profile."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find(), args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


if __name__ == "__main__":
    found = find()
    print(f"browser: {found}" if found else MISSING)
    sys.exit(0 if found else 1)
