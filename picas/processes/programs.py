"""A program that a supervisor runs: what is to be run, what is known of it, and what it has used."""

from __future__ import annotations

import contextlib
import sys
import threading
from dataclasses import dataclass

from .launch import SupervisorLost


@dataclass(frozen=True)
class Command:
    """What a supervisor is to run, see `supervisor`."""

    arguments: bytes
    environment: bytes
    folder: bytes
    """The working directory, relative to that of this process."""
    grace: float
    """Seconds between SIGTERM and SIGKILL if this process is killed."""


@dataclass(frozen=True)
class Usage:
    """What a program has used, together with the processes that it has waited for."""

    cpu_seconds: float
    max_memory_mb: float
    """The resident memory of the largest of these processes."""

    @classmethod
    def of(cls, cpu: float, memory: int) -> Usage:
        """Return it for seconds, and for an `ru_maxrss`, which is in kilobytes, on macOS in bytes."""
        return cls(cpu, memory / (1 << 20 if sys.platform == "darwin" else 1 << 10))


class Once:
    """Something that happens once, in one thread, and that others wait for.

    Unlike with `threading.Event`, a thread whose wait is interrupted by a signal handler never holds a lock that `set`
    needs: otherwise the handler could wait for the thread that calls `set`, and that for the handler.
    """

    def __init__(self) -> None:
        self._has_happened = False
        self._lock = threading.Lock()  # released when it has happened
        self._lock.acquire()

    def set(self) -> None:
        """Let it happen."""
        self._has_happened = True
        self._release()

    def is_set(self) -> bool:
        """Return whether it has happened."""
        return self._has_happened

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has happened, for `timeout` seconds at most, and return whether it has."""
        if not self._has_happened and self._lock.acquire(timeout=_lock_timeout(timeout)):
            self._release()  # for others who wait
        return self._has_happened

    def _release(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is released
            self._lock.release()


def _lock_timeout(timeout: float | None) -> float:
    """Return what `acquire` of a lock takes for this number of seconds; None is for ever."""
    return -1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX)


class Program:
    """A program that a supervisor runs. The thread that reads the supervisor's answers sets what is known of it.

    :param command: what is run
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self.pid = 0
        self.exit_code: int | None = None
        """Negative if a signal has ended it; None while it runs."""
        self.usage: Usage | None = None
        """None while it runs, and if it is unknown because the supervisor was killed."""
        self.error: OSError | SupervisorLost | None = None
        """Why it was not started."""
        self.is_answered = Once()
        """Set when it is known whether it was started."""
        self.has_ended = Once()
        self.is_gone = Once()
        """Set when the program has ended with all that it has started, or that is no longer our business."""
        self.was_alive = True
        """Whether anything was alive when it was to be ended."""
