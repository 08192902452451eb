"""A real browser: Debian's Chromium without a window, steered by Playwright, with axe-core for accessibility.

A page that the fixture `page` returns fails its test if it asks another server for something, or if there is an error
in its console.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from .places import require

WIDE, PHONE = 1280, 390
"""Widths of pages, in CSS pixels: a laptop's and a phone's."""
HEIGHT = 900
SERIOUS = ("serious", "critical")
"""The impacts of findings of axe-core that no page may have."""
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, as a `playwright.sync_api.Browser`. It is closed after the tests of a file: its loop must not stay."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    require("browser", None if program else "Chromium is not installed: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api")
    # Chromium's own sandbox does not work for root, nor in most containers; the pages are ours.
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*sandbox, "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Any]:
    """Return a function that opens a new, empty page, given arguments of `Browser.new_context`."""
    contexts, faults = [], []

    def note_request(request: Any) -> None:
        if not request.is_navigation_request() and is_foreign(request.url, request.frame.url):
            faults.append(f"asked {request.url}")

    def new_page(width: int = WIDE, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": HEIGHT}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", note_request)
        page.faults = faults
        return page

    yield new_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(new_page: Any) -> Any:
    """An empty page of the width of a laptop."""
    return new_page()


def is_foreign(url: str, page: str) -> bool:
    """Return whether a request goes to another server than that of the page; a page from a file has none."""
    asked = urlsplit(url).netloc
    return asked not in ("", urlsplit(page).netloc)


def accessibility_faults(page: Any) -> list[str]:
    """Return what axe-core finds serious in a page, one line for each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    violations = axe.Axe().run(page).response["violations"]
    return [
        f"{found['id']}: {found['help']}: {node['html'][:200]}"
        for found in violations
        if found["impact"] in SERIOUS
        for node in found["nodes"]
    ]
