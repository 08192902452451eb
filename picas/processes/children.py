"""The child processes of this process: starting them, which of them run, and ending them with all their descendants.

The children that run are known here by the thread that started them: a pilot that is told to stop, or a token whose
time is up, ends them whatever code is waiting for them. If the pilot dies, its supervisor ends them (see `supervisor`).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from ..util import wait_until
from . import supervisor
from .descendants import (
    Family,
    Mark,
    Marks,
    Root,
    become_subreaper,
    leads_group,
    marked,
    reap_adopted,
    set_limit,
    start_of,
)
from .interrupts import shielded

log = logging.getLogger(__name__)

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL."""
KILL_WAIT = 10.0
"""Seconds that a killed process may take to be gone (one in an uninterruptible system call takes longer)."""

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


@dataclass(frozen=True)
class _Child:
    """What is known of a child that runs."""

    pilot: int
    """The process that started it: another one than this after a fork."""
    thread: int
    """The thread that started it."""
    root: Root
    mark: Mark


_of_thread = threading.local()
_running: dict[subprocess.Popen[Any], _Child] = {}
"""The children that run. A dict's single operations are atomic."""


def set_environment(variables: Mapping[str, str]) -> None:
    """Add variables to the environment of all children that this thread starts from now on, in place of earlier ones.

    Not to that of a child which is given an environment of its own.
    """
    _of_thread.variables = dict(variables)


def environment() -> dict[str, str]:
    """Return the environment that a child of this thread gets by default."""
    return {**os.environ, **getattr(_of_thread, "variables", {})}


def running(thread: int | None = None) -> list[subprocess.Popen[Any]]:
    """Return the children that run now.

    :param thread: only those that the thread of this identifier started
    """
    me = os.getpid()
    return [
        process for process, record in list(_running.items()) if record.pilot == me and thread in (None, record.thread)
    ]


def end(process: subprocess.Popen[Any], grace: float = GRACE) -> None:
    """End a child and all that descends from it: SIGTERM, and SIGKILL for what is left after the grace period.

    On Linux that finds also what has moved to another process group or session, or whose parents have ended, elsewhere
    the process group. Of a child that was not started here (a user's own `Popen`) it finds what still has its parents.

    :param grace: seconds between the two signals
    """
    end_all([process], grace)


def end_all(processes: Sequence[subprocess.Popen[Any]], grace: float = GRACE) -> bool:
    """End several children at the same time, see `end`, and return whether any was alive."""
    me = os.getpid()
    known = [record for record in map(_running.get, processes) if record is not None and record.pilot == me]
    roots = [record.root for record in known]
    roots += [_root_of(process) for process in processes if process not in _running and process.poll() is None]
    if not roots:
        return False
    family = Family(roots, [record.mark for record in known], _setup.ancestor)

    def is_over() -> bool:
        # All are asked, which reaps them; after that the id of one says nothing, while its group may live on.
        have_ended = [process.poll() is not None for process in processes]
        return all(have_ended) and not family.is_alive()

    def is_over_on_sigterm() -> bool:
        if is_over():
            return True
        family.terminate()
        _setup.reap()
        return False

    def is_over_on_sigkill() -> bool:
        family.kill()
        _send(processes, signal.SIGKILL)
        _setup.reap()
        return is_over()

    if is_over():
        return False
    if not family.is_alive():  # the system does not tell, for want of a free descriptor say
        _send(processes, signal.SIGTERM)
    if not wait_until(is_over_on_sigterm, grace):
        log.warning("%s did not end on SIGTERM in %s s: killing what is left", _describe(processes), grace)
        wait_until(is_over_on_sigkill, KILL_WAIT)
    return True


def _root_of(process: subprocess.Popen[Any]) -> Root:
    return Root(process.pid, start_of(process.pid), leads_group(process.pid))


def _send(processes: Sequence[subprocess.Popen[Any]], signum: int) -> None:
    """Send a signal to the children themselves, those that have not ended."""
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                process.send_signal(signum)


def _describe(processes: Sequence[subprocess.Popen[Any]]) -> str:
    pids = ", ".join(str(process.pid) for process in processes)
    return f"Child {pids}" if len(processes) == 1 else f"Children {pids}"


@contextlib.contextmanager
def child(args: Any, grace: float = GRACE, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child in a session of its own. If the block is broken off, it is ended with all that descends from it.

    :param grace: seconds between SIGTERM and SIGKILL then
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with shielded():  # an interruption between the start and the note of it would leave the child alone
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
            _setup.forget(process)


def _start(args: Any, grace: float, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    mark = _setup.next_mark()
    options["env"] = marked(environment() if options.get("env") is None else options["env"], mark)
    with _setup.starting():
        process = subprocess.Popen(args, start_new_session=True, preexec_fn=_preparation(mark), **options)  # noqa: PLW1509
        root = Root(process.pid, start_of(process.pid), leads=True)
        _running[process] = _Child(os.getpid(), threading.get_ident(), root, mark)
    _setup.tell(f"+ {root.pid} {root.start} {grace}")
    return process


def _preparation(mark: Mark) -> Callable[[], None] | None:
    """Return what a new child does before its program: it takes the mark, and will die with this process.

    :returns: None where the system can do neither (only Linux can)
    """
    if not sys.platform.startswith("linux"):
        return None
    # Loaded before the fork: the child of a process with threads must not load anything.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def prepare() -> None:
        set_limit(mark)
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before that
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare


class _Setup:
    """What this process sets up with its first child: the marks, the adoption of orphans, and the supervisor."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.RLock()  # a handler that starts a child may meet the thread in here
        self._marks: Marks | None = None
        self._supervisor: socket.socket | None = None
        self._starts: set[object] = set()  # children in the making, which are not known by their pids yet
        self._sessions: set[int] = set()
        self.ancestor: int | None = None
        """The process to which orphans come: this one, or None where the system can't do that."""

    def next_mark(self) -> Mark:
        """Return the mark for a new child."""
        marks = self._marks
        if marks is None:
            with self._lock:
                marks = self._marks or self._begin()
        return marks.next()

    def tell(self, message: str) -> None:
        """Send the supervisor a message. If it is gone, or does not listen, there is nothing to be done about that."""
        if self._supervisor is not None:
            # Never waits; and no signal tells that nobody listens, one which a script may want to die of.
            flags = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
            with contextlib.suppress(OSError):
                self._supervisor.send(f"{message}\n".encode(), flags)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Hold a block in which a child is started and noted."""
        start = object()
        self._starts.add(start)
        try:
            yield
        finally:
            self._starts.discard(start)

    def forget(self, process: subprocess.Popen[Any]) -> None:
        """Have nothing more to do with a child that has ended; what it has left in the background runs on."""
        self.tell(f"- {process.pid}")
        self.reap()

    def reap(self) -> None:
        """Reap orphans that have come to this process and ended."""
        if self.ancestor is not None and self._marks is not None:
            self._sessions.add(os.getsid(0))
            reap_adopted(self._marks.all, self._sessions, self._is_child)

    def _is_child(self, pid: int) -> bool:
        return bool(self._starts) or any(process.pid == pid for process in list(_running))

    def _begin(self) -> Marks:
        marks = Marks()
        me = os.getpid()
        self._supervisor = _start_supervisor()  # before orphans come here, or it would be one
        if self._supervisor is not None:
            limits = marks.all.limits
            self.tell(f"pilot {marks.all.text} {limits.start} {limits.stop} {start_of(me)}")
            atexit.register(self.tell, "bye")
        self._sessions.add(os.getsid(0))
        self.ancestor = me if become_subreaper() else None
        self._marks = marks
        return marks

    def leave(self) -> None:
        """Begin anew in a forked process, which has no part in its parent's children."""
        supervisor_of_parent = self._supervisor
        self._clear()
        if supervisor_of_parent is not None:
            supervisor_of_parent.close()  # or its supervisor would not see the parent's end


_setup = _Setup()
os.register_at_fork(after_in_child=_setup.leave)


def _start_supervisor() -> socket.socket | None:
    """Start the supervisor and return the way to it, None if it can't be started."""
    if not sys.executable or getattr(sys, "frozen", False):
        return None  # what runs here would not run a script
    ours, theirs = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PICAS_")}
    command = [sys.executable, "-I", "-S", os.path.abspath(supervisor.__file__)]  # noqa: PTH100  # links stay as they are
    try:
        with theirs:
            helper = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,
                preexec_fn=_detach,  # noqa: PLW1509
            )
        helper.wait()
    except OSError as error:
        log.warning("Without a supervisor, which could not be started, children may outlive a killed pilot: %s", error)
        ours.close()
        return None
    return ours


def _detach() -> None:
    """Go on as an orphan: code that waits for whatever child ends next must not wait for the supervisor."""
    if os.fork():
        os._exit(0)
