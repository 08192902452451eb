"""What the tests of pilots share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from support.workers import PilotProcess


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test in a folder of its own, where also the results go that can't be saved."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PICAS_SPOOL", str(tmp_path / "spool"))


@pytest.fixture
def pilot(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., PilotProcess]]:
    """Return a function that starts a pilot in its own process; the process is ended after the test."""
    started: list[PilotProcess] = []

    def start(body: str, **options: Any) -> PilotProcess:
        started.append(PilotProcess(tmp_path, environment, body, **options))
        return started[-1]

    yield start
    for process in started:
        process.close()
