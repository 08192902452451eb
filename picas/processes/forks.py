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
import weakref
from pathlib import Path
from types import FrameType
from typing import Any

from ..util import wait_until
from .descendants import read, start_of

_POOL_WORKER = "PoolWorker"  # is in the names of the workers of a `multiprocessing.Pool`
_EXECUTOR_STARTS = ("_spawn_process", "_adjust_process_count")  # methods of `ProcessPoolExecutor`, by version of Python

_forked: dict[int, Fork] = {}  # by pid
_of_thread = threading.local()


class Fork(subprocess.Popen[bytes]):
    """A process that was forked. It can be used like a `Popen`, but its exit code belongs to the code that forked it.

    What it is meant to be is known from the code that forks it. That code itself notes it only afterwards, and in
    another thread the token may end between the two.

    :param pid: its id
    :param thread: the identifier of the thread that has forked it, None if that is unknown
    :param frame: the code that has just forked it
    """

    def __init__(self, pid: int, thread: int | None, frame: FrameType | None = None) -> None:
        # Not the constructor of `Popen`, which would start a process.
        self.args = f"a fork of process {os.getpid()}"
        self.stdin = self.stdout = self.stderr = None
        self.encoding = self.errors = self.text_mode = None
        self.pid = pid
        self.thread = thread
        self.returncode: int | None = None
        self.becomes_program = False
        """Whether `subprocess` has forked it, to run another program in it."""
        self.is_pool_worker = False
        """Whether it works for a `multiprocessing.Pool`."""
        self._executor: weakref.ref[Any] | None = None
        self._key = (pid, start_of(pid))
        while frame is not None and self._note(frame.f_globals.get("__name__"), frame.f_code.co_name, frame):
            frame = frame.f_back

    def _note(self, module: str | None, name: str, frame: FrameType) -> bool:
        """Note what a function on the stack tells about it. Return whether the functions below may tell more."""
        if (module, name) == ("multiprocessing.process", "_bootstrap"):
            return False  # what is below has forked this process itself
        if (module, name) == ("subprocess", "_execute_child"):
            self.becomes_program = True
        elif (module, name) == ("multiprocessing.pool", "_repopulate_pool_static"):
            self.is_pool_worker = True
        elif module == "concurrent.futures.process" and name in _EXECUTOR_STARTS:
            self._executor = weakref.ref(frame.f_locals["self"])
        return True

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

    @property
    def is_in_use(self) -> bool:
        """Whether it works for a `ProcessPoolExecutor` that is still in use, see `workers_in_use`."""
        return self._executor is not None and _is_in_use(self._executor())


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
    # The thread that forks a program waits for the program. If it is interrupted meanwhile, it is no program.
    found = [
        fork
        for fork in list(_forked.values())
        if not fork.is_pool_worker
        and not (fork.becomes_program and fork.thread not in (thread, threading.main_thread().ident))
    ]
    others = [Fork(pid, None) for pid, name in started.items() if pid not in _forked and _POOL_WORKER not in name]
    found += [fork for fork in others if fork.poll() is None]
    return [fork for fork in found if thread in (None, fork.thread)]


def workers_in_use() -> set[int]:
    """Return the pids of the workers of each `ProcessPoolExecutor` that somebody still refers to.

    Whoever keeps it uses it for the next token. One that was dropped, or is being shut down, only finishes its work.
    """
    pids = {pid for pid, fork in list(_forked.items()) if fork.is_in_use}
    for manager in threading.enumerate():
        is_manager = type(manager).__name__ == "_ExecutorManagerThread"
        if is_manager and _is_in_use(getattr(manager, "executor_reference", _nothing)()):
            pids.update(getattr(manager, "processes", None) or ())
    return pids


def _is_in_use(executor: Any) -> bool:
    return executor is not None and not getattr(executor, "_shutdown_thread", False)


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
        _forked[pid] = Fork(pid, threading.get_ident(), sys._getframe(1))


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forked.clear)
