"""What the tests of child processes share."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from support.proc import is_supervisor, pids_with, read_proc

from picas.executers import execute
from picas.processes import end_all, left_behind, running

Pids = Callable[[], list[int]]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def no_children_left() -> Iterator[None]:
    """Check that a test has left no children running, and end what they have left in the background."""
    yield
    assert running() == []
    end_all(left_behind(), 0)


@pytest.fixture
def tagged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pids]:
    """Return a function that returns the living processes started by this test, supervisors excepted; end them."""
    execute(["true"])  # a supervisor for this process, which stays
    tag = f"test {os.getpid()} {time.monotonic()}".encode()
    monkeypatch.setenv("TEST_TAG", tag.decode())

    def alive() -> list[int]:
        return [pid for pid in pids_with(tag) if not is_supervisor(pid)]

    yield alive
    for pid in alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for file in Path().glob("*.pid"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.fixture
def supervisors(monkeypatch: pytest.MonkeyPatch) -> Pids:
    """Return a function that returns the supervisors of this test's pilots, once these have started."""
    return _named("picas-child", monkeypatch)


@pytest.fixture
def fork_servers(monkeypatch: pytest.MonkeyPatch) -> Pids:
    """Return a function that returns the fork servers of this test's pilots, once these have started."""
    return _named("picas-fork", monkeypatch)


def _named(name: str, monkeypatch: pytest.MonkeyPatch) -> Pids:
    tag = f"pilots of {os.getpid()} at {time.monotonic()}".encode()
    monkeypatch.setenv(f"TAG_OF_{name}", tag.decode())
    return lambda: [pid for pid in pids_with(tag) if read_proc(pid, "comm") == f"{name}\n".encode()]
