"""Start child processes, know which of them run, and end them with all their descendants.

The running children are recorded here together with the thread that started them. So a pilot that is stopped, or a
token whose time is up, can end them whatever code is waiting for them. If the pilot is killed, its supervisor ends them
(see `supervision`).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from ..util import wait_until
from .descendants import Mark, ProcessTree, Root, leads_group, marked, set_limit, start_of
from .interrupts import shielded
from .supervision import Supervision

log = logging.getLogger(__name__)

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL."""
KILL_WAIT = 10.0
"""Seconds that a killed process may take to disappear. In an uninterruptible system call it takes longer."""

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


@dataclass(frozen=True)
class _Record:
    """What is known about a running child."""

    pilot: int
    """The pid of the process that started it. After a fork that is not this process."""
    thread: int
    """The identifier of the thread that started it."""
    root: Root
    mark: Mark


_of_thread = threading.local()
_running: dict[subprocess.Popen[Any], _Record] = {}
"""The running children. Single operations on a dict are atomic."""
_supervision = Supervision(_running)
os.register_at_fork(after_in_child=_supervision.start_anew)


def set_environment(variables: Mapping[str, str]) -> None:
    """Set the variables that are added to the environment of all children that this thread starts from now on.

    They replace those of an earlier call. A child that is started with an explicit environment does not get them.
    """
    _of_thread.variables = dict(variables)


def environment() -> dict[str, str]:
    """Return the environment that a child of this thread gets by default."""
    return {**os.environ, **getattr(_of_thread, "variables", {})}


def running(thread: int | None = None) -> list[subprocess.Popen[Any]]:
    """Return the children that run now.

    :param thread: the identifier of a thread, to get only the children that it started
    """
    me = os.getpid()
    return [
        process for process, record in list(_running.items()) if record.pilot == me and thread in (None, record.thread)
    ]


@contextlib.contextmanager
def child(args: Any, grace: float = GRACE, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child in a new session. If the block is left by an exception, end the child and its descendants.

    :param args: the command, as for `subprocess.Popen`
    :param grace: seconds between SIGTERM and SIGKILL after an exception
    :param options: further arguments of `subprocess.Popen`
    :raises OSError: if the command can't be started
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with shielded():  # an interruption after the start, but before it is recorded, would leave the child behind
            process = _start(args, grace, options)
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
            _supervision.forget(process)


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
    me = os.getpid()
    records = [record for record in map(_running.get, processes) if record is not None and record.pilot == me]
    roots = [record.root for record in records]
    roots += [_root_of(process) for process in processes if process not in _running and process.poll() is None]
    if not roots:
        return False
    ending = _Ending(processes, ProcessTree(roots, [record.mark for record in records], _supervision.subreaper))
    if ending.is_over():
        return False
    ending.begin()
    if not wait_until(ending.is_over_after_sigterm, grace):
        log.warning("%s did not end on SIGTERM in %s s: killing what is left", ending, grace)
        wait_until(ending.is_over_after_sigkill, KILL_WAIT)
    return True


class _Ending:
    """Children and their descendants while they are being ended.

    :param processes: the children
    :param tree: the children and their descendants
    """

    def __init__(self, processes: Sequence[subprocess.Popen[Any]], tree: ProcessTree) -> None:
        self._processes = processes
        self._tree = tree

    def __str__(self) -> str:
        pids = ", ".join(str(process.pid) for process in self._processes)
        return f"Child {pids}" if len(self._processes) == 1 else f"Children {pids}"

    def begin(self) -> None:
        """Send SIGTERM to the children themselves if they can't be looked up, for example without a descriptor."""
        if not self._tree.is_alive():
            self._send(signal.SIGTERM)

    def is_over(self) -> bool:
        """Return whether all have ended."""
        # Poll every child: that reaps it. A reaped child's pid means nothing, but its process group may live on.
        have_ended = [process.poll() is not None for process in self._processes]
        return all(have_ended) and not self._tree.is_alive()

    def is_over_after_sigterm(self) -> bool:
        """Return whether all have ended. Send SIGTERM to those that are left and have not got it."""
        if self.is_over():
            return True
        self._tree.terminate()
        _supervision.reap()
        return False

    def is_over_after_sigkill(self) -> bool:
        """Send SIGKILL to those that are left, and return whether all have ended."""
        self._tree.kill()
        self._send(signal.SIGKILL)
        _supervision.reap()
        return self.is_over()

    def _send(self, signum: int) -> None:
        """Send a signal to those of the children themselves that have not ended."""
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    process.send_signal(signum)


def _root_of(process: subprocess.Popen[Any]) -> Root:
    return Root(process.pid, start_of(process.pid), leads_group(process.pid))


def _start(args: Any, grace: float, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    mark = _supervision.next_mark()
    options["env"] = marked(environment() if options.get("env") is None else options["env"], mark)
    with _supervision.starting():
        process = subprocess.Popen(args, start_new_session=True, preexec_fn=_preparation(mark), **options)  # noqa: PLW1509
        root = Root(process.pid, start_of(process.pid), leads_group=True)
        _running[process] = _Record(os.getpid(), threading.get_ident(), root, mark)
    _supervision.watch(root, grace)
    return process


def _preparation(mark: Mark) -> Callable[[], None] | None:
    """Return what a new child does before it runs its program: it sets the mark, and asks to die with this process.

    :returns: None on systems that support neither (only Linux does)
    """
    if not sys.platform.startswith("linux"):
        return None
    # Loaded before the fork: in the child of a process with threads, loading could deadlock.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def prepare() -> None:
        set_limit(mark)
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call of prctl
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare
