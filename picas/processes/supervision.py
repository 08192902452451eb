"""What a process sets up with its first child, so that all descendants of its children can be found and ended.

The children get marks, this process adopts their orphans (as a subreaper), and a supervisor process ends them if this
process is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from . import supervisor
from .descendants import Mark, Marks, Root, become_subreaper, reap_adopted, start_of

log = logging.getLogger(__name__)


class Supervision:
    """The marks, the supervisor and the adoption of orphans of this process. Set up when the first child is started.

    :param running: the children that run, as the keys of a mapping that the caller keeps up to date
    """

    def __init__(self, running: Mapping[subprocess.Popen[Any], object]) -> None:
        self._running = running
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal handler may start a child while its thread holds the lock
        self._marks: Marks | None = None
        self._supervisor: socket.socket | None = None
        self._starts: set[object] = set()  # children that are being started and have no known pid yet
        self._sessions: set[int] = set()
        self.subreaper: int | None = None
        """The process that adopts orphans: this one, or None if the system does not support that."""

    def next_mark(self) -> Mark:
        """Return the mark for a new child."""
        marks = self._marks
        if marks is None:
            with self._lock:
                marks = self._marks or self._set_up()
        return marks.next()

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Protect a child from `reap` until the caller has added it to the running children."""
        start = object()
        self._starts.add(start)
        try:
            yield
        finally:
            self._starts.discard(start)

    def watch(self, root: Root, grace: float) -> None:
        """Let the supervisor end a child and its descendants if this process is killed.

        :param grace: seconds between SIGTERM and SIGKILL
        """
        self._send(f"+ {root.pid} {root.start} {grace}")

    def forget(self, process: subprocess.Popen[Any]) -> None:
        """Stop watching a child that has ended. What it left in the background goes on."""
        self._send(f"- {process.pid}")
        self.reap()

    def _send(self, message: str) -> None:
        """Send the supervisor a message. Failures are ignored: without a supervisor the children run all the same."""
        if self._supervisor is not None:
            # Never wait, and cause no SIGPIPE, whose default action is to end this process.
            flags = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
            with contextlib.suppress(OSError):
                self._supervisor.send(f"{message}\n".encode(), flags)

    def reap(self) -> None:
        """Reap adopted orphans that have ended."""
        if self.subreaper is not None and self._marks is not None:
            self._sessions.add(os.getsid(0))
            reap_adopted(self._marks.all, self._sessions, self._is_own)

    def start_anew(self) -> None:
        """Reset a forked process: the children of its parent are not its children."""
        supervisor_of_parent = self._supervisor
        self._clear()
        if supervisor_of_parent is not None:
            supervisor_of_parent.close()  # otherwise the supervisor would not notice the parent's end

    def _is_own(self, pid: int) -> bool:
        return bool(self._starts) or any(process.pid == pid for process in list(self._running))

    def _set_up(self) -> Marks:
        marks = Marks()
        me = os.getpid()
        self._supervisor = _start_supervisor()  # before this process adopts orphans, since it becomes an orphan itself
        if self._supervisor is not None:
            limits = marks.all.limits
            self._send(f"pilot {marks.all.text} {limits.start} {limits.stop} {start_of(me)}")
            atexit.register(self._send, "bye")
        self._sessions.add(os.getsid(0))
        self.subreaper = me if become_subreaper() else None
        self._marks = marks
        return marks


def _start_supervisor() -> socket.socket | None:
    """Start the supervisor and return the socket for messages to it; None if it can't be started."""
    if not sys.executable or getattr(sys, "frozen", False):
        return None  # there is no interpreter that could run the script
    ours, theirs = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PICAS_")}
    command = [sys.executable, "-I", "-S", os.path.abspath(supervisor.__file__)]  # noqa: PTH100  # keep symbolic links
    try:
        with theirs:
            parent = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,
                preexec_fn=_become_orphan,  # noqa: PLW1509
            )
        parent.wait()
    except OSError as error:
        log.warning("The supervisor could not be started; children may outlive a killed pilot: %s", error)
        ours.close()
        return None
    return ours


def _become_orphan() -> None:
    """Continue in a grandchild: user code that waits for any child must not wait for the supervisor."""
    if os.fork():
        os._exit(0)
