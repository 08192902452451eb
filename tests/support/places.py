"""Where things are: the project, and the server that the tests talk to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Location:
    """Where the server is and who we are there."""

    url: str
    username: str
    password: str

    def environment(self, database: str) -> dict[str, str]:
        return {
            "PICAS_HOST_URL": self.url,
            "PICAS_DATABASE": database,
            "PICAS_USERNAME": self.username,
            "PICAS_PASSWORD": self.password,
        }


def require(name: str, missing: str | None) -> None:
    """Skip the test if something is missing, or fail if $PICAS_TEST_REQUIRE says that it must be there.

    :param name: what that is called in $PICAS_TEST_REQUIRE
    :param missing: why there is none, None if there is
    """
    if missing and name in os.environ.get("PICAS_TEST_REQUIRE", "").split():
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
