"""The browser of the tests finds what it is there for: errors, requests to elsewhere, and what hinders people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.browser import accessibility_faults, is_foreign

GOOD = '<html lang="en"><head><title>good</title></head><body><main><h1>good</h1></main></body></html>'
BAD = "<html><body><img src='data:,'></body></html>"


def test_serious_faults_of_a_page_are_found(page: Any) -> None:
    page.set_content(BAD)
    assert any(fault.startswith("image-alt: ") for fault in accessibility_faults(page))
    page.set_content(GOOD)
    assert accessibility_faults(page) == []


def test_errors_in_the_console_are_found(page: Any) -> None:
    page.set_content(GOOD)
    page.evaluate("console.error('odd')")
    assert page.faults == ["odd"]
    page.faults.clear()


def test_requests_to_elsewhere_are_found(page: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(GOOD.replace("</main>", "<img alt='' src='http://127.0.0.1:9/a.png'></main>"))
    page.goto(file.as_uri())
    assert page.faults[0] == "asked http://127.0.0.1:9/a.png"
    page.faults.clear()
    own = "http://127.0.0.1:80/page"
    assert is_foreign("http://example.org/a.js", own)
    assert not is_foreign("http://127.0.0.1:80/a.js", own)
    assert not is_foreign("data:image/png;base64,", own)
