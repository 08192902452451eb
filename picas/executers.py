"""Run a command as a child with a process group of its own, so that all of it can be ended.

The children that run are known here by the thread that started them: a pilot that is told to stop, or a token whose
time is up, ends them whatever code is waiting for them.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Callable

from .interrupts import shielded, wait_until

log = logging.getLogger(__name__)

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL."""
KILL_WAIT = 10.0
"""Seconds that a killed process may take to be gone (one in an uninterruptible system call takes longer)."""

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>

_running: dict[subprocess.Popen[Any], int] = {}
"""The children that run, each with the thread that started it. A dict's single operations are atomic."""


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


def execute(args: str | Sequence[str], shell: bool = False) -> tuple[subprocess.Popen[bytes], int, bytes, bytes]:
    """Run a command to its end and return its `Popen`, exit code, standard output and standard error.

    The output is held in memory; `run_command` writes it to files instead.

    :param args: the command and its arguments, or one text if a shell is to read it
    :param shell: whether a shell runs it
    :raises OSError: if it can't be started
    """
    with _child(args, shell=shell, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        stdout, stderr = process.communicate()
    return process, process.returncode, stdout, stderr


def execute_old(cmd: str) -> int:
    """Run a command in a shell, with this process's output, and return the wait status (see `os.system`)."""
    with _child(cmd, shell=True) as process:
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
) -> Result:
    """Run a command to its end, its output going straight to files, and return how it ended.

    :param args: the command and its arguments, or one text if a shell is to read it
    :param stdout: the file for its standard output; this process's own if left out
    :param stderr: the file for its standard error; may be the same as `stdout`
    :param timeout: seconds after which its process group gets SIGTERM
    :param grace: seconds after that until what is left of the group gets SIGKILL
    :param cwd: its working directory
    :param env: environment variables that are added to this process's
    :param token: the token that it works on, offered to it as PICAS_TOKEN_ID and PICAS_TOKEN_INPUT (text as it is,
        anything else as JSON; left out if it holds a zero byte or is larger than an environment can be)
    :param shell: whether a shell runs it
    :raises OSError: if it can't be started, or a file can't be written
    """
    started = time.monotonic()
    timed_out = False
    environment = {**_environment_for(token), **(env or {})}
    with contextlib.ExitStack() as files:
        out = _open(files, stdout)
        err = out if _is_same_file(stdout, stderr) else _open(files, stderr)
        with _child(args, shell=shell, stdout=out, stderr=err, cwd=cwd, env=environment, grace=grace) as process:
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                timed_out = True
                end(process, grace)
    # One that hangs in the kernel has no exit code yet, and will have this one.
    exit_code = -signal.SIGKILL if process.returncode is None else process.returncode
    return Result(process, exit_code, timed_out, time.monotonic() - started)


def running(thread: int | None = None) -> list[subprocess.Popen[Any]]:
    """Return the children that run now.

    :param thread: only those that the thread of this identifier started
    """
    return [process for process, owner in list(_running.items()) if thread in (None, owner)]


def end(process: subprocess.Popen[Any], grace: float = GRACE) -> None:
    """End a child and its whole process group: SIGTERM, and SIGKILL for what is left after the grace period.

    A child that has no group of its own (a user's own `Popen`) is ended alone.

    :param grace: seconds between the two signals
    """
    end_all([process], grace)


def end_all(processes: Sequence[subprocess.Popen[Any]], grace: float = GRACE) -> bool:
    """End several children at the same time, see `end`, and return whether any was alive."""
    groups = [group for group in map(_Group, processes) if group.is_alive()]
    for group in groups:
        group.send(signal.SIGTERM)
        group.send(signal.SIGCONT)  # a stopped process acts on no signal but this one and SIGKILL
    if not wait_until(lambda: not any(group.is_alive() for group in groups), grace):
        for group in groups:
            if group.is_alive():
                log.warning("Process group %s did not end on SIGTERM in %s s: killing it", group.process.pid, grace)
                group.send(signal.SIGKILL)
        wait_until(lambda: not any(group.is_alive() for group in groups), KILL_WAIT)
    return bool(groups)


class _Group:
    """A child's process group, or the child alone if it has none of its own."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self.process = process
        # Asked now: after the child's end its id says nothing, while its group may live on.
        self._is_own = process in _running or _leads_group(process.pid)
        self._is_gone = False

    def send(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._is_own:
                os.killpg(self.process.pid, signum)
            else:
                self.process.send_signal(signum)

    def is_alive(self) -> bool:
        # Once gone it stays so: its id may become another's.
        self._is_gone = self._is_gone or (self.process.poll() is not None and not self._has_members())
        return not self._is_gone

    def _has_members(self) -> bool:
        if not self._is_own:
            return False
        try:
            os.killpg(self.process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return _has_living_members(self.process.pid)


def _has_living_members(group: int) -> bool:
    """Tell whether a process group that exists has more than zombies, which stay in a container that has no init."""
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    except OSError:
        return True  # no Linux
    has_zombies = False
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # "pid (name) state parent group …", where the name may hold anything.
            state, _, of_group = Path("/proc", pid, "stat").read_bytes().rpartition(b") ")[2].split()[:3]
            if int(of_group) == group:
                if state not in (b"Z", b"X"):
                    return True
                has_zombies = True
    return not has_zombies  # none in sight says nothing: one may just have been forked


def _leads_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


@contextlib.contextmanager
def _child(args: Any, grace: float = GRACE, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child in a process group of its own. If the block is broken off, all of the group is ended."""
    process: subprocess.Popen[bytes] | None = None
    try:
        with shielded():  # an interruption between the start and the note of it would leave the child alone
            process = subprocess.Popen(args, start_new_session=True, preexec_fn=_die_with_parent(), **options)  # noqa: PLW1509
            _running[process] = threading.get_ident()
        yield process
    except BaseException:
        if process is not None:
            end(process, grace)
        raise
    finally:
        if process is not None:
            _running.pop(process, None)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def _die_with_parent() -> Callable[[], None] | None:
    """Return what lets a new child die with this process, None where the system can't do that (only Linux can)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = _libc().prctl
    parent = os.getpid()

    def set_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before that
            os.kill(os.getpid(), signal.SIGKILL)

    return set_signal


def _libc() -> ctypes.CDLL:
    # Loaded before the fork: the child of a process with threads must not load anything.
    return ctypes.CDLL(None, use_errno=True)


def _open(files: contextlib.ExitStack, path: str | Path | None) -> IO[bytes] | None:
    return None if path is None else files.enter_context(Path(path).open("wb"))


def _is_same_file(one: str | Path | None, other: str | Path | None) -> bool:
    return one is not None and other is not None and Path(one).resolve() == Path(other).resolve()


_MAX_VARIABLE = 100_000  # bytes; Linux takes 131,072 for one variable with its name


def _environment_for(token: Mapping[str, Any] | None) -> dict[str, str]:
    """Return this process's environment with what a token adds to it."""
    environment = dict(os.environ)
    if token is None:
        return environment
    content = token.get("input", "")
    text = content if isinstance(content, str) else json.dumps(content)
    for name, value in (("PICAS_TOKEN_ID", str(token.get("_id", ""))), ("PICAS_TOKEN_INPUT", text)):
        environment.pop(name, None)  # a pilot that is itself the work of a token has its own
        if _fits_environment(value):
            environment[name] = value
    return environment


def _fits_environment(value: str) -> bool:
    try:
        return "\0" not in value and len(os.fsencode(value)) < _MAX_VARIABLE
    except UnicodeEncodeError:  # half a surrogate pair
        return False
