"""Interrupt Python code from outside: when its time is up, or when the pilot is told to stop.

What must not be torn in two (a lock that is being written, a child that is being started) runs `shielded`.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Callable

from .exceptions import TokenTimeout

SETTLE = 5.0
"""Seconds that the code has to end by itself once its children are gone, before it is interrupted."""
REPEAT = 1.0
"""Seconds until code that went on regardless, or was shielded, is interrupted again."""

# The signal that wakes the main thread out of a system call. Its default is to be ignored, so one that comes late does
# no harm.
_WAKE = signal.SIGURG

_shields: dict[int, int] = {}  # how many shields each thread stands behind, by its identifier
_deferred: list[Callable[[], None]] = []


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Put off interruptions of this thread until the end of the block."""
    thread = threading.get_ident()
    _shields[thread] = _shields.get(thread, 0) + 1
    try:
        yield
    finally:
        _shields[thread] -= 1
        if not _shields[thread]:
            del _shields[thread]
            if _deferred and threading.current_thread() is threading.main_thread():
                _deferred.pop()()


def interrupt(action: Callable[[], None]) -> None:
    """Call an action that raises, in a signal handler: now, or at the end of the shield that the code stands behind."""
    if is_shielded(threading.get_ident()):
        _deferred[:] = [action]
    else:
        action()


def is_shielded(thread: int) -> bool:
    """Tell whether the thread of this identifier must not be interrupted now."""
    return thread in _shields


class TimeLimit:
    """A block of code that is interrupted by `TokenTimeout` if it takes too long.

    In the main thread it is interrupted wherever it is, also while it sleeps or waits; in another thread only between
    two steps of the interpreter, so not in the middle of a long system call.

    :param seconds: the limit, None for none
    :param is_finished: asked when the time is up; if it returns True, the code is left alone
    :param end_children: called when the time is up; returns whether there were children to end, in which case the code
        has a few seconds to end by itself
    """

    def __init__(
        self, seconds: float | None, is_finished: Callable[[], bool], end_children: Callable[[], bool]
    ) -> None:
        self.expired = False
        """Whether the time was up before the code ended."""
        self._seconds = seconds
        self._is_finished = is_finished
        self._end_children = end_children
        self._left = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.get_ident()
        self._is_main = threading.current_thread() is threading.main_thread()
        self._watch: threading.Thread | None = None
        self._interrupting = False
        self._previous: Any = None

    def __enter__(self) -> TimeLimit:
        if self._seconds is not None:
            if self._is_main:
                self._previous = signal.signal(_WAKE, self._on_wake)
            self._watch = threading.Thread(target=self._run, name="picas-time-limit", daemon=True)
            self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Interrupt no more. Leaving the block does the same, unless it is interrupted in doing so."""
        self._left.set()
        if self._watch is None:
            return
        with self._lock:  # from here on the watch interrupts no more
            self._interrupting = False
            if not self._is_main:
                _set_async_exception(self._thread, None)  # one that is on its way would hit the code after the block
        if self._is_main:
            signal.signal(_WAKE, self._previous)
        self._watch = None

    def _run(self) -> None:
        assert self._seconds is not None
        if self._left.wait(self._seconds) or self._is_finished():
            return
        self.expired = True
        if self._end_children() and self._left.wait(SETTLE):
            return
        while not self._left.is_set():
            with self._lock:
                if self._left.is_set():
                    return
                if not is_shielded(self._thread):
                    self._interrupt()
            self._left.wait(REPEAT)

    def _interrupt(self) -> None:
        self._interrupting = True
        if self._is_main:
            signal.pthread_kill(self._thread, _WAKE)
        else:
            _set_async_exception(self._thread, TokenTimeout)

    def _on_wake(self, signum: int, frame: FrameType | None) -> None:
        if self._interrupting and not self._left.is_set() and not is_shielded(self._thread):
            self._interrupting = False
            raise TokenTimeout(f"the limit of {self._seconds} s is over")


def _set_async_exception(thread: int, kind: type[BaseException] | None) -> None:
    """Raise an exception in another thread at its next step, or take back one that was not raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None if kind is None else ctypes.py_object(kind))
