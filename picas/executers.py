"""Run a command as a child that can be ended with all that descends from it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import GRACE, MAX_OUTPUT, Outputs, child, end, end_all, environment, running

__all__ = ["GRACE", "Result", "end", "end_all", "execute", "execute_old", "run_command", "running"]


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    process: subprocess.Popen[bytes]
    exit_code: int
    """What the command returned; negative if a signal ended it."""
    timed_out: bool
    """Whether it was ended because its time was up."""
    seconds: float
    """How long it ran."""
    truncated: bool = False
    """Whether a file does not hold all of its output, which was more than `max_output`."""


def execute(args: str | Sequence[str], shell: bool = False) -> tuple[subprocess.Popen[bytes], int, bytes, bytes]:
    """Run a command to its end and return its `Popen`, exit code, standard output and standard error.

    The output is held in memory; `run_command` writes it to files instead.

    :param args: the command and its arguments, or one text if a shell is to read it
    :param shell: whether a shell runs it
    :raises OSError: if it can't be started
    """
    with child(args, shell=shell, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        stdout, stderr = process.communicate()
    return process, process.returncode, stdout, stderr


def execute_old(cmd: str) -> int:
    """Run a command in a shell, with this process's output, and return the wait status (see `os.system`)."""
    with child(cmd, shell=True) as process:
        exit_code = process.wait()
    return exit_code << 8 if exit_code >= 0 else -exit_code


def run_command(
    args: str | Sequence[str],
    *,
    stdout: str | Path | None = None,
    stderr: str | Path | None = None,
    timeout: float | None = None,
    grace: float = GRACE,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    token: Mapping[str, Any] | None = None,
    shell: bool = False,
    max_output: int = MAX_OUTPUT,
) -> Result:
    """Run a command to its end, its output going to files, and return how it ended.

    :param args: the command and its arguments, or one text if a shell is to read it
    :param stdout: the file for its standard output; this process's own if left out
    :param stderr: the file for its standard error; may be the same as `stdout`
    :param timeout: seconds after which it is ended, see `end`
    :param grace: seconds after that until what is left gets SIGKILL
    :param cwd: its working directory
    :param env: environment variables that are added to this process's
    :param token: the token that it works on, offered to it as PICAS_TOKEN_ID and PICAS_TOKEN_INPUT (text as it is,
        anything else as JSON; left out if it holds a zero byte or is larger than an environment can be)
    :param shell: whether a shell runs it
    :param max_output: the most bytes of output that each file holds; of more than that it holds the head and the tail,
        with a line between that says so
    :raises OSError: if it can't be started, or a file can't be written; with ENOSPC if output was lost, or the command
        failed, since the disk is full
    """
    started = time.monotonic()
    timed_out = False
    variables = {**_environment_for(token), **(env or {})}
    with Outputs(stdout, stderr, max_output) as outputs:
        streams = {"stdout": outputs.stdout, "stderr": outputs.stderr}
        with child(args, shell=shell, cwd=cwd, env=variables, grace=grace, **streams) as process:
            outputs.start()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                timed_out = True
                end(process, grace)
    # One that hangs in the kernel has no exit code yet, and will have this one.
    exit_code = -signal.SIGKILL if process.returncode is None else process.returncode
    outputs.check(exit_code)
    return Result(process, exit_code, timed_out, time.monotonic() - started, outputs.truncated)


_MAX_VARIABLE = 100_000  # bytes; Linux takes 131,072 for one variable with its name


def _environment_for(token: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the environment of this thread's children with what a token adds to it."""
    variables = environment()
    if token is None:
        return variables
    content = token.get("input", "")
    text = content if isinstance(content, str) else json.dumps(content)
    for name, value in (("PICAS_TOKEN_ID", str(token.get("_id", ""))), ("PICAS_TOKEN_INPUT", text)):
        variables.pop(name, None)  # a pilot that is itself the work of a token has its own
        if _fits_environment(value):
            variables[name] = value
    return variables


def _fits_environment(value: str) -> bool:
    try:
        return "\0" not in value and len(os.fsencode(value)) < _MAX_VARIABLE
    except UnicodeEncodeError:  # half a surrogate pair
        return False
