"""Unit tests use no server and start no process: one that tries fails."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
import requests  # noqa: F401  # binds a socket when it is imported, which happens when it is first needed

FORBIDDEN = (
    (socket.socket, "bind"),
    (socket.socket, "connect"),
    (socket.socket, "connect_ex"),
    (subprocess.Popen, "_execute_child"),
    (os, "fork"),
    (os, "forkpty"),
    (os, "posix_spawn"),
    (os, "posix_spawnp"),
    (os, "system"),
)
"""Everything that reaches a server or starts a process."""


@pytest.fixture(autouse=True)
def isolated() -> Iterator[None]:
    """Let all that is forbidden fail the test, also where code under test catches exceptions."""

    def make(name: str) -> Any:
        def fail(*arguments: object, **options: object) -> NoReturn:
            pytest.fail(f"a unit test may not call {name}: move it to another folder")

        return fail

    # Not the fixture `monkeypatch`: a test may undo that.
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in FORBIDDEN:
            patch.setattr(owner, name, make(f"{owner.__name__}.{name}"))
        yield


@pytest.fixture(scope="session")
def location() -> NoReturn:
    pytest.fail("a unit test has no server: move it to another folder")
