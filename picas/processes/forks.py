"""The processes that Python code has forked from this one, or started by `multiprocessing`, without a supervisor.

A process that has gone on to run another program, as those of `subprocess` do, is not among them: it is the user's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from ..util import wait_until
from .descendants import read, start_of

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
    for pid, fork in list(_forked.items()):
        if fork.poll() is not None or fork.has_other_program:
            _forked.pop(pid, None)
    found = list(_forked.values())
    found += [Fork(pid, None) for pid in _started_by_multiprocessing() if pid not in _forked]
    return [fork for fork in found if thread in (None, fork.thread)]


def _started_by_multiprocessing() -> list[int]:
    """Return the processes that `multiprocessing` has started in any way; it forks them only on some systems."""
    module = sys.modules.get("multiprocessing.process")
    children = [] if module is None else module.active_children()
    return [child.pid for child in children if child.pid is not None]


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
