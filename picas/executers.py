"""Run a command as a child process that can be ended with all its descendants.

A command reads nothing that a person types: its standard input is empty unless it gets a file, and it has no terminal.
It does not get the password of the pool unless it is asked for.

If a token's time is up, or the pilot has to stop, the pilot ends the commands that these functions have started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import without_inherited_password
from .processes import (
    GRACE,
    MAX_OUTPUT,
    Outputs,
    check_inherited,
    child,
    end,
    end_all,
    environment,
    note_failure,
    own_work,
    read_pipes,
    running,
)
from .tokens.reasons import last_line
from .util import open_regular

__all__ = [
    "GRACE",
    "Result",
    "as_text",
    "end",
    "end_all",
    "execute",
    "execute_old",
    "input_text",
    "run_command",
    "running",
]


_TAIL = 4096  # bytes at the end of standard error in which its last line is looked for
_MAX_VARIABLE = 100_000  # bytes; the limit of Linux is 131,072 for a variable and its name


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    process: subprocess.Popen[bytes]
    exit_code: int
    """The exit code of the command; negative if a signal ended it."""
    timed_out: bool
    """Whether the command was ended because its time was up."""
    seconds: float
    """How long the command ran."""
    truncated: bool = False
    """Whether a file does not hold all output, because it exceeded `max_output`."""
    cpu_seconds: float | None = None
    """The processor time of the command and of the processes that it has waited for; None if it is unknown."""
    max_memory_mb: float | None = None
    """The resident memory of the largest of these processes, in megabytes (2^20 bytes).

    The system counts at least that of the small Python program that starts the command, some 10 MB. None if it is
    unknown.
    """


@own_work()
def execute(
    args: str | Sequence[str], shell: bool = False, keep_background: bool = False, pass_settings: bool = False
) -> tuple[subprocess.Popen[bytes], int, bytes, bytes]:
    """Run a command, wait until it ends, and return its `Popen`, exit code, standard output and standard error.

    The output is held in memory. `run_command` writes it to files instead.

    :param args: the command and its arguments, or a single text for a shell
    :param shell: whether to run the command in a shell
    :param keep_background: see `run_command`
    :param pass_settings: see `run_command`
    :raises OSError: if the command can't be started; a `NodeFault` if no other command could be either
    """
    with contextlib.ExitStack() as passed_on, contextlib.ExitStack() as kept:
        sources, targets = zip(*(os.pipe() for _ in range(2)))
        for end_of_pipe in sources:
            kept.callback(os.close, end_of_pipe)
        for end_of_pipe in targets:
            passed_on.callback(os.close, end_of_pipe)
        streams = {"stdout": targets[0], "stderr": targets[1]}
        variables = environment(pass_settings)
        with child(args, shell=shell, env=variables, keep_background=keep_background, **streams) as process:
            passed_on.close()
            stdout, stderr = read_pipes(sources)
            exit_code = process.wait()
    if exit_code != 0:
        note_failure(exit_code, last_line(stderr[-_TAIL:]))
    return process, exit_code, stdout, stderr


@own_work()
def execute_old(cmd: str) -> int:
    """Run a command in a shell, wait until it ends, and return its wait status, like `os.system`.

    :raises NodeFault: if no command can be started, or if the command failed and the disk with its output is full
    """
    with child(cmd, shell=True) as process:
        exit_code = process.wait()
    check_inherited(exit_code, 1, 2)
    if exit_code != 0:
        note_failure(exit_code)
    return exit_code << 8 if exit_code >= 0 else -exit_code


@own_work()
def run_command(
    args: str | Sequence[str],
    *,
    stdin: str | Path | None = None,
    stdout: str | Path | None = None,
    stderr: str | Path | None = None,
    timeout: float | None = None,
    grace: float = GRACE,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    token: Mapping[str, Any] | None = None,
    shell: bool = False,
    max_output: int = MAX_OUTPUT,
    keep_background: bool = False,
    pass_settings: bool = False,
) -> Result:
    """Run a command with its output in files, wait until it ends, and return how it ended.

    :param args: the command and its arguments, or a single text for a shell
    :param stdin: a file that it reads as its standard input; by default that is empty (/dev/null)
    :param stdout: the file for its standard output; by default it goes to that of this process
    :param stderr: the file for its standard error; may be the same as `stdout`
    :param timeout: seconds after which the command is ended, see `end`
    :param grace: seconds between SIGTERM and SIGKILL when the command is ended
    :param cwd: its working directory
    :param env: variables to add to the environment of this process
    :param token: the token that the command works on. Its id and input are passed in the environment variables
        PICAS_TOKEN_ID and PICAS_TOKEN_INPUT: a text unchanged, anything else as JSON. A value that contains a zero byte
        or is too large for an environment is left out.
    :param shell: whether to run the command in a shell
    :param max_output: how many bytes of output each file holds at most. Of a larger output it holds the head and the
        tail, with a line between them.
    :param keep_background: whether what the command leaves in the background goes on after the token, and after the
        pilot. By default it is ended with its token, and outside of a token with this process.
    :param pass_settings: whether the command gets PICAS_PASSWORD, PICAS_PASSWORD_FILE, and the user and password in
        PICAS_HOST_URL, as far as they are in the environment of this process. A command needs them only if it talks to
        the pool itself.
    :raises OSError: if the command can't be started, or a file can't be read or written
    :raises NodeFault: an `OSError`, if no other command could be started or no other file written: with ENOSPC if the
        disk is full, and output was lost or the command failed
    """
    started = time.monotonic()
    timed_out = False
    variables = {**_environment_for(token, pass_settings), **without_inherited_password(env or {}, pass_settings)}
    with _source(stdin) as source, Outputs(stdout, stderr, max_output) as outputs:
        streams = {"stdin": source, "stdout": outputs.stdout, "stderr": outputs.stderr}
        with child(
            args, shell=shell, cwd=cwd, env=variables, grace=grace, keep_background=keep_background, **streams
        ) as process:
            outputs.start()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                timed_out = True
                end(process, grace)
    # A process that hangs in the kernel has no exit code yet. It will be this one.
    code = process.poll()
    exit_code = -signal.SIGKILL if code is None else code
    outputs.check(exit_code)
    if exit_code != 0:
        note_failure(exit_code, last_line(_tail(stderr)), timeout if timed_out else None)
    usage = process.usage
    return Result(
        process,
        exit_code,
        timed_out,
        time.monotonic() - started,
        outputs.truncated,
        None if usage is None else usage.cpu_seconds,
        None if usage is None else usage.max_memory_mb,
    )


def input_text(token: Mapping[str, Any]) -> str:
    """Return a token's input as programs get it: a text unchanged, anything else as JSON, '' if there is none."""
    return as_text(token.get("input", ""))


def as_text(value: Any) -> str:
    """Return a value of a token as programs and people get it: a text unchanged, anything else as JSON.

    :raises ValueError, TypeError: if JSON can't hold it
    """
    if isinstance(value, str):
        return value
    text = json.dumps(value, ensure_ascii=False)
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # half a character, or one that the locale does not have: no program could get it
        return json.dumps(value)
    return text


def _tail(path: str | Path | None) -> bytes:
    """Return the end of a file, nothing if it can't be read or is no regular file."""
    if path is None:
        return b""
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return file.read(_TAIL)
    except OSError:
        return b""


@contextlib.contextmanager
def _source(path: str | Path | None) -> Iterator[int | None]:
    """Open the file for a command's standard input. A named pipe, which could let this process wait, is refused."""
    if path is None or str(path) == os.devnull:
        yield None
        return
    with open_regular(path) as file:
        yield file.fileno()


def _environment_for(token: Mapping[str, Any] | None, pass_settings: bool) -> dict[str, str]:
    """Return the environment of this thread's children, with the variables for a token."""
    variables = environment(pass_settings)
    if token is None:
        return variables
    for name, value in (("PICAS_TOKEN_ID", str(token.get("_id", ""))), ("PICAS_TOKEN_INPUT", input_text(token))):
        variables.pop(name, None)  # a pilot that is itself started for a token has its own
        if _fits_environment(value):
            variables[name] = value
    return variables


def _fits_environment(value: str) -> bool:
    try:
        return "\0" not in value and len(os.fsencode(value)) < _MAX_VARIABLE
    except UnicodeEncodeError:  # a lone surrogate
        return False
