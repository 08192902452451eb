"""The gallery of the tutorial, as people see it: in light and dark, on a laptop and on a phone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.browser import PHONE, WIDE, accessibility_faults
from support.places import EXAMPLES
from support.tokens import make_token

from picas import Task

HOSTILE = "<script>document.title='owned'</script>\x1b[31m\"'& {0}"
PIXEL = bytes.fromhex(  # one red pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415478da63f8cfc0000003010100f7034143"
    "0000000049454e44ae426082"
)


@pytest.fixture
def gallery(client: Any, environment: dict[str, str], tmp_path: Path) -> Path:
    """The page of a pool with two images, two tokens without an image, and one that has failed."""
    done = {"lock": 1, "done": 2, "exit_code": 0, "attempts": [{"seconds": 7.25, "host": "node<1>"}]}
    tokens = [
        make_token(0, input="python fractal.py julia --c=-0.8+0.156j --width=3", **done),
        {**make_token(1, input=f"python fractal.py {HOSTILE}", **done), "_id": f"a/b?c#d% {HOSTILE}"},
        make_token(2, input="echo no image", **done),
        make_token(3, input="python fractal.py ship", lock=1, done=2, exit_code=1),
        make_token(4, input="a text that says that it is an image", **done),
    ]
    for number, token in enumerate(tokens):
        document = Task(token)
        if number in (0, 1, 3):
            document.put_attachment("fractal.png", PIXEL)
        if number == 4:
            document.put_attachment("fractal.png", "<script>")
        client.save(document)
    command = [sys.executable, str(EXAMPLES / "tutorial" / "gallery.py"), str(tmp_path / "gallery"), "--title", HOSTILE]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert made.stdout == f"{tmp_path}/gallery/index.html: 2 images\n"
    return tmp_path / "gallery" / "index.html"


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_is_readable(gallery: Path, new_page: Any, width: int, scheme: str) -> None:
    page = new_page(width, color_scheme=scheme)
    page.goto(gallery.as_uri())
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert page.evaluate("[...document.images].map(image => image.naturalWidth)") == [1, 1]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 300) == (scheme == "dark")
    assert accessibility_faults(page) == []


def test_shows_names_parameters_and_times_as_text(gallery: Path, page: Any) -> None:
    page.goto(gallery.as_uri())
    assert page.title().startswith("<script>")  # it has not run
    captions = page.locator("figcaption").all_inner_texts()
    assert "julia, c -0.8+0.156j, width 3" in captions[1]
    assert "7.2 s on node<1>" in captions[1]
    assert "<script>document.title='owned'</script>\\x1b[31m" in captions[0]
    alternatives = page.locator("img").evaluate_all("images => images.map(image => image.alt)")
    assert alternatives[1] == "token_0: julia, c -0.8+0.156j, width 3"
    assert page.locator("header p").inner_text() == "2 images; tokens of the pool: todo 0, locked 0, done 4, error 1"
