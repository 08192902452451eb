"""The report as people see it: on a laptop and on a phone, in light and in dark, on paper, and read aloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.browser import PHONE, WIDE, accessibility_faults
from support.large_pool import LargePool
from support.tokens import ended_token

from picas import CouchDB
from picas.cli.report.charts import charts_of
from picas.cli.report.page import page_of
from picas.cli.report.survey import read_survey
from picas.cli.report.tables import tables_of

SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll("svg text")].map(it => it.getBoundingClientRect())
    .filter(box => box.width).map(box => box.height))"""
WIDEST_PICTURE = "Math.max(...[...document.querySelectorAll('svg')].map(it => it.getBoundingClientRect().width))"
HOSTILE = "exit 1: <img src=http://other.example/x onerror=alert(1)> $x^2$"


@pytest.fixture
def report(client: CouchDB, tmp_path: Path) -> str:
    """The address of the report on a pool whose tokens have all that can happen to them."""
    pool = LargePool(300, 24, days=1.0, seed=3)
    pool.fill(client)
    client.save(ended_token(9000, reason=HOSTILE, group="r0bad", start=pool.now - 500))
    survey = read_survey(client)
    file = tmp_path / "report.html"
    file.write_text("".join(page_of(survey, charts_of(survey), tables_of(survey))), encoding="utf-8")
    return file.as_uri()


def test_the_page(report: str, new_page: Any) -> None:
    """All in one test, since it takes seconds to make the page."""
    for scheme, width in (("light", WIDE), ("dark", PHONE)):
        page = new_page(width, color_scheme=scheme)
        page.goto(report)
        assert accessibility_faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("document.scripts.length + document.images.length") == 0
        is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert is_dark == (scheme == "dark")
        pictures = page.get_by_role("img")
        assert pictures.count() == 8  # those for the other width are hidden, from screen readers as well
        assert page.get_by_role("img", name="Throughput").count() == 1
        assert page.evaluate(SMALLEST_TEXT) > 8, "a text is too small to be read"
        assert page.evaluate(WIDEST_PICTURE) <= width
        assert page.locator("h3").get_by_text(HOSTILE).count() == 1

    page = new_page()
    page.goto(report)
    page.get_by_text("Throughput: the numbers as a table").click()
    assert page.get_by_role("region", name="Throughput: attempts ended").is_visible()

    paper = new_page(color_scheme="dark")
    paper.goto(report)
    paper.emulate_media(media="print", color_scheme="dark")
    assert paper.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--page')") == "#ffffff"
    assert paper.locator(".wide svg").first.is_visible()
    assert len(paper.pdf(format="A4")) > 10_000
