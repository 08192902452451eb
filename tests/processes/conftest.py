"""What the tests of child processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from picas.processes import running


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def no_children_left() -> Iterator[None]:
    """Check that a test has left no children running."""
    yield
    assert running() == []
