"""The processes that Python code has forked from this one, or started by `multiprocessing`, without a supervisor.

A process that has gone on to run another program, as those of `subprocess` do, is not among them: it is the user's own.
Nor are the workers of a `multiprocessing.Pool`: one that waits for work holds a lock, without which its pool can
neither go on nor end. The pool ends them itself when its code is interrupted, or when Python ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

from ..util import wait_until
from .descendants import read, start_of

_POOL_WORKER = "PoolWorker"  # is in the names of the workers of a `multiprocessing.Pool`

_forked: dict[int, Fork] = {}  # by pid
_of_thread = threading.local()


class Fork(subprocess.Popen[bytes]):
    """A process that was forked. It can be used like a `Popen`, but its exit code belongs to the code that forked it.

    :param pid: its id
    :param thread: the identifier of the thread that has forked it, None if that is unknown
    """

    def __init__(self, pid: int, thread: int | None) -> None:
        # Not the constructor of `Popen`, which would start a process.
        self.args = f"a fork of process {os.getpid()}"
        self.stdin = self.stdout = self.stderr = None
        self.encoding = self.errors = self.text_mode = None
        self.pid = pid
        self.thread = thread
        self.returncode: int | None = None
        self._key = (pid, start_of(pid))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fork) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def poll(self) -> int | None:
        """Return None while it is alive, and -1 afterwards."""
        process = read(self.pid)
        if process is None or process.key != self._key or not process.is_alive:
            self.returncode = -1
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """See `Popen.wait`."""
        if not wait_until(lambda: self.poll() is not None, float("inf") if timeout is None else timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return -1

    def send_signal(self, sig: int) -> None:
        """See `Popen.send_signal`."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    @property
    def has_other_program(self) -> bool:
        """Whether it runs another program than this process by now."""
        return _command_of(self.pid) != _command_of(os.getpid())


def forks(thread: int | None = None) -> list[subprocess.Popen[bytes]]:
    """Return the processes that were forked and are alive.

    :param thread: the identifier of a thread, to get only what it has forked
    """
    started = _started_by_multiprocessing()
    if not started and not _forked:
        return []  # nearly always, and this is asked for each token
    for pid, fork in list(_forked.items()):
        if fork.poll() is not None or fork.has_other_program:
            _forked.pop(pid, None)
    found = [fork for pid, fork in list(_forked.items()) if _POOL_WORKER not in started.get(pid, "")]
    others = [Fork(pid, None) for pid, name in started.items() if pid not in _forked and _POOL_WORKER not in name]
    found += [fork for fork in others if fork.poll() is None]
    return [fork for fork in found if thread in (None, fork.thread)]


def workers_in_use() -> set[int]:
    """Return the pids of the workers of each `ProcessPoolExecutor` that somebody still refers to.

    Whoever keeps it uses it for the next token. One that was dropped, or is being shut down, only finishes its work.
    """
    pids: set[int] = set()
    for manager in threading.enumerate():
        if type(manager).__name__ == "_ExecutorManagerThread":
            executor = getattr(manager, "executor_reference", _nothing)()
            if executor is not None and not getattr(executor, "_shutdown_thread", False):
                pids.update(getattr(manager, "processes", None) or ())
    return pids


def _nothing() -> None:
    """Stand in for a weak reference that a version of Python does not have."""


def _started_by_multiprocessing() -> dict[int, str]:
    """Return the processes that `multiprocessing` has started in any way, and their names.

    It forks them only on some systems. Not by `active_children()`: that takes the exit code of one that has ended from
    the code that waits for it.
    """
    module = sys.modules.get("multiprocessing.process")
    started = {}
    for child in list(getattr(module, "_children", ())):
        with contextlib.suppress(ValueError):  # it was closed just now
            poll = select.poll()
            poll.register(child.sentinel, select.POLLIN)
            if not poll.poll(0):
                started[child.pid] = child.name
    return started


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _children_of_this_thread() -> set[int]:
    try:
        with open("/proc/thread-self/children", "rb", buffering=0) as file:  # noqa: PTH123  # faster than `Path`
            return set(map(int, file.read().split()))
    except OSError:  # not on every system; there only those of `multiprocessing` are known
        return set()


def _before_fork() -> None:
    _of_thread.children = _children_of_this_thread()


def _after_fork() -> None:
    """Note the new child of this thread."""
    for pid in _children_of_this_thread() - _of_thread.children:
        _forked[pid] = Fork(pid, threading.get_ident())


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forked.clear)
