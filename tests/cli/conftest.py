"""Fixtures for the tests of the command: it is run as a process, as people run it."""

from __future__ import annotations

import subprocess
from typing import Any, Callable

import pytest
from support.places import command
from support.terminal import Terminal

from picas.cli import main


@pytest.fixture
def run_picas(environment: dict[str, str], tmp_path: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in the test's own folder and return its exit code and output.

    Keyword arguments: `stdin`, a text; `variables`, further variables of the environment.
    """

    def run(
        *arguments: str, stdin: str | None = None, variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            env={**environment, **(variables or {})},
            cwd=tmp_path,
            input="" if stdin is None else stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def at_terminal(environment: dict[str, str], tmp_path: Any) -> Callable[..., Terminal]:
    """Start the command at a pseudo-terminal, see `Terminal`; `variables` are added to the environment."""

    def start(*arguments: str, columns: int = 80, variables: dict[str, str] | None = None) -> Terminal:
        return Terminal(command(*arguments), {**environment, **(variables or {})}, columns, cwd=tmp_path)

    return start


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command in this process with arguments that are wrong, and return the line that says so."""

    def complaint(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capsys.readouterr()
        assert (ended.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
        return printed.err

    return complaint
