"""The folders of the project, the server of the tests, and software that tests require."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Location:
    """URL and credentials of the server."""

    url: str
    username: str
    password: str

    def environment(self, database: str) -> dict[str, str]:
        """Return the environment variables that name a database on this server."""
        return {
            "PICAS_HOST_URL": self.url,
            "PICAS_DATABASE": database,
            "PICAS_USERNAME": self.username,
            "PICAS_PASSWORD": self.password,
        }


def require(name: str, missing: str | None) -> None:
    """Skip the test if software is missing, or fail it if $PICAS_TEST_REQUIRE names that software.

    :param name: name of the software in $PICAS_TEST_REQUIRE
    :param missing: why it is not available, or None if it is
    """
    if missing and name in os.environ.get("PICAS_TEST_REQUIRE", "").split():
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def command(*arguments: str) -> list[str]:
    """Return the command line of `picas` with some arguments."""
    return [sys.executable, "-m", "picas.cli", *arguments]
