"""Start child processes, know which of them run, and end them with all their descendants.

The running children are recorded here together with the thread that started them. So a pilot that is stopped, or a
token whose time is up, can end them whatever code is waiting for them. Each child has a supervisor, which ends it if
the pilot is killed (see `supervision`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Union

from ..config import without_password
from ..picaslogger import get_logger
from ..util import wait_until
from .accounting import note_end
from .descendants import Family, Root, leads_group, start_of
from .interrupts import shielded
from .programs import Command, Program, Usage
from .supervision import Supervisor, supervisors
from .supervisor import KILL_WAIT

log = get_logger(__name__)

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL."""

Arguments = Union[str, bytes, "os.PathLike[Any]", Sequence[Union[str, bytes, "os.PathLike[Any]"]]]

_of_thread = threading.local()
# By the child, the identifier of the thread that has started it. Single operations on a dict are atomic.
_running: dict[Child, int] = {}
_left: dict[Child, int] = {}


class Child(subprocess.Popen[bytes]):
    """A program that a supervisor runs. It can be used like any `Popen` without pipes.

    :param args: the arguments, as the caller has given them
    :param supervisor: its supervisor
    :param program: the program
    """

    def __init__(self, args: Arguments, supervisor: Supervisor, program: Program) -> None:
        # Not the constructor of `Popen`, which would start a process.
        self.args = args
        self.stdin = self.stdout = self.stderr = None
        self.encoding = self.errors = self.text_mode = None
        self.pid = program.pid
        self.returncode: int | None = None
        self._supervisor = supervisor
        self._program = program

    def poll(self) -> int | None:
        """See `Popen.poll`."""
        if self._program.has_ended.is_set():
            self.returncode = self._program.exit_code
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """See `Popen.wait`."""
        if not self._program.has_ended.wait(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        exit_code = self.poll()
        assert exit_code is not None
        return exit_code

    def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Wait for the end; there are no pipes."""
        self.wait(timeout)
        return None, None

    def send_signal(self, sig: int) -> None:
        """See `Popen.send_signal`."""
        self._supervisor.send_signal(self._program, int(sig))

    @property
    def usage(self) -> Usage | None:
        """What the program has used; None while it runs, or if that is unknown."""
        return self._program.usage

    @property
    def is_gone(self) -> bool:
        """Whether the program has ended and nothing that it has started is left."""
        return self._program.is_gone.is_set()

    def begin_to_end(self, grace: float) -> None:
        """Begin to end the program and all that it has started, see `end`."""
        self._supervisor.end(self._program, float(grace))

    @property
    def was_alive(self) -> bool:
        """Whether anything was alive when it was to be ended."""
        return self._program.was_alive

    def keep_background(self) -> None:
        """Leave what the program has started to itself."""
        self._supervisor.keep(self._program)


def set_environment(variables: Mapping[str, str]) -> None:
    """Set the variables that are added to the environment of all children that this thread starts from now on.

    They replace those of an earlier call. A child that is started with an explicit environment does not get them.
    """
    _of_thread.variables = dict(variables)


def environment(pass_settings: bool = False) -> dict[str, str]:
    """Return the environment that a child of this thread gets by default.

    :param pass_settings: whether the password of the pool stays in it
    """
    variables = {**os.environ, **getattr(_of_thread, "variables", {})}
    return variables if pass_settings else without_password(variables)


def running(thread: int | None = None) -> list[subprocess.Popen[Any]]:
    """Return the children that run now.

    :param thread: the identifier of a thread, to get only the children that it started
    """
    return [child for child, starter in list(_running.items()) if thread in (None, starter) and not child.is_gone]


def left_behind(thread: int | None = None) -> list[subprocess.Popen[Any]]:
    """Return the children that have ended and have left something in the background.

    :param thread: the identifier of a thread, to get only the children that it started
    """
    for child in list(_left):
        if child.is_gone:
            _left.pop(child, None)
    return [child for child, starter in list(_left.items()) if thread in (None, starter)]


@contextlib.contextmanager
def child(
    args: Arguments,
    *,
    shell: bool = False,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    grace: float = GRACE,
    keep_background: bool = False,
) -> Iterator[Child]:
    """Start a child in a new session. If the block is left by an exception, end the child and its descendants.

    :param args: the command, as for `subprocess.Popen`
    :param shell: whether it is run by a shell
    :param cwd: its working directory
    :param env: its whole environment, `environment()` by default
    :param stdin: the descriptor of its standard input, by default /dev/null
    :param stdout: the descriptor of its standard output, by default that of this process
    :param stderr: the same for its standard error
    :param grace: seconds between SIGTERM and SIGKILL after an exception
    :param keep_background: whether what it leaves in the background goes on after its token, and after this process
    :raises OSError: if the command can't be started
    """
    command = _command(args, shell, cwd, environment() if env is None else env, grace)
    started: tuple[Supervisor, Program] | None = None
    process: Child | None = None
    try:
        with _descriptors(stdin, stdout, stderr) as descriptors:
            started = supervisors.start(command, descriptors)
        with shielded():
            process = Child(args, *started)
            _running[process] = threading.get_ident()
        yield process
    except BaseException:
        if process is not None:
            end(process, grace)
        elif started is not None:  # interrupted before it was recorded
            started[0].abort(started[1])
        raise
    finally:
        if process is not None:
            if keep_background and not process.is_gone:
                process.keep_background()
            left_behind()  # forgets those that are gone
            if not process.is_gone:
                _left[process] = threading.get_ident()
            _running.pop(process, None)
            note_end(process._program)


def end(process: subprocess.Popen[Any], grace: float = GRACE) -> None:
    """End a child and all its descendants: SIGTERM, then SIGKILL for those that are left after the grace period.

    On Linux this includes descendants that have moved to another process group or session, and those whose parents
    have ended. On other systems it is the process group. For a child that was not started by this module (a user's own
    `Popen`), it is those descendants whose parents have not ended.

    :param grace: seconds between the two signals
    """
    end_all([process], grace)


def end_all(processes: Sequence[subprocess.Popen[Any]], grace: float = GRACE) -> bool:
    """End several children at the same time, see `end`. Return whether any of them, or a descendant, was alive."""
    children = [process for process in processes if isinstance(process, Child) and not process.is_gone]
    others = [process for process in processes if not isinstance(process, Child) and process.poll() is None]
    if not children and not others:
        return False
    for each in children:
        each.begin_to_end(grace)
    ending = _Ending(children, others)
    ending.begin()
    if not wait_until(ending.is_over_after_sigterm, grace):
        if grace > 0:
            log.warning("%s did not end on SIGTERM in %s s: killing what is left", ending, grace)
        wait_until(ending.is_over_after_sigkill, KILL_WAIT)
    return bool(others) or any(each.was_alive for each in children)


class _Ending:
    """Processes while they are being ended.

    :param children: those that their supervisors end
    :param others: those that are ended here
    """

    def __init__(self, children: Sequence[Child], others: Sequence[subprocess.Popen[Any]]) -> None:
        self._children = children
        self._others = others
        self._family = Family([Root(each.pid, start_of(each.pid), leads_group(each.pid)) for each in others])

    def __str__(self) -> str:
        pids = ", ".join(str(process.pid) for process in (*self._children, *self._others))
        return f"Child {pids}" if len(self._children) + len(self._others) == 1 else f"Children {pids}"

    def begin(self) -> None:
        """Send SIGTERM to those that can't be looked up, for example without a free descriptor."""
        if not self._family.is_alive():
            self._send(signal.SIGTERM)

    def is_over_after_sigterm(self) -> bool:
        """Return whether all have ended. Send SIGTERM to those that are left and have not got it."""
        if self._is_over():
            return True
        self._family.terminate()
        return False

    def is_over_after_sigkill(self) -> bool:
        """Send SIGKILL to those that are left, and return whether all have ended."""
        self._family.kill()
        self._send(signal.SIGKILL)
        return self._is_over()

    def _send(self, signum: int) -> None:
        for process in self._others:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    process.send_signal(signum)

    def _is_over(self) -> bool:
        # Poll every process: that reaps it. A reaped one's pid means nothing, but its process group may live on.
        have_ended = [process.poll() is not None for process in self._others]
        return all(have_ended) and not self._family.is_alive() and all(child.is_gone for child in self._children)


@contextlib.contextmanager
def _descriptors(stdin: int | None, stdout: int | None, stderr: int | None) -> Iterator[list[int]]:
    """Open the descriptors that a supervisor gets with a command, see `supervisor`."""
    _open_standard()
    opened: list[int] = []
    try:
        if stdin is None:
            stdin = os.open(os.devnull, os.O_RDONLY)
            opened.append(stdin)
        descriptors = [stdin, 1 if stdout is None else stdout, 2 if stderr is None else stderr]
        with contextlib.suppress(PermissionError):  # as after `sudo -u`; the program starts in the root folder then
            opened.append(os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY))
            descriptors.append(opened[-1])
        yield descriptors
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _command(
    args: Arguments, shell: bool, cwd: str | Path | None, variables: Mapping[str, str], grace: float
) -> Command:
    """Return what a supervisor is to run.

    :raises ValueError: if an argument or a variable can't be passed to a program
    """
    listed = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
    if not listed:
        raise ValueError("there is no command")
    names = _joined(variables)
    if b"=" in names or (variables and b"" in names.split(b"\0")):
        raise ValueError("illegal environment variable name")
    arguments = _joined(["/bin/sh", "-c", *listed] if shell else listed)
    folder = b"" if cwd is None else _joined([cwd])
    return Command(arguments, _joined(list(chain.from_iterable(variables.items()))), folder, float(grace))


def _joined(texts: Collection[str | bytes | os.PathLike[Any]]) -> bytes:
    """Return texts with zero bytes between them. This is done for each program, with all variables."""
    try:
        joined = os.fsencode("\0".join(texts))  # type: ignore[arg-type]
    except TypeError:  # not all are of type str
        joined = b"\0".join(map(os.fsencode, texts))
    if joined.count(b"\0") > max(0, len(texts) - 1):
        raise ValueError("embedded null byte")
    return joined


def _open_standard() -> None:
    """Open the standard descriptors that this process was started without: the next file to be opened would get one."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _forget_all() -> None:
    """Forget the children of the parent of a forked process."""
    _running.clear()
    _left.clear()


os.register_at_fork(after_in_child=_forget_all)
_open_standard()
