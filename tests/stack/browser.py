"""A real browser without a window. Without Chromium a test is skipped; in CI it fails."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.stack.servers import needed

WITHIN_S = 60.0
"""Whatever a page has to show it shows within this, on a machine that may be busy."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium that asks nothing of the network by itself."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = needed(next((p for p in map(shutil.which, names) if p), None), "Chromium")
    quiet = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    quiet += ["--disable-dev-shm-usage"]  # which may be as small as a container makes it
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=1000 * WITHIN_S)
    with sync_playwright() as playwright:
        shown = playwright.chromium.launch(executable_path=program, args=[*quiet, *as_root])
        yield shown
        shown.close()
