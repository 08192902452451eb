"""Interrupt Python code from outside: when its time is up, or when the pilot has to stop.

Code that must not be interrupted half-way (saving a lock, starting a child) runs in a `shielded` block.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Callable

from ..exceptions import TokenTimeout
from ..util import never, wait_until
from .faults import start_thread

SETTLE = 5.0
"""Seconds that code has to end by itself after its children were ended, before it is interrupted."""
RETRY = 0.2
"""Seconds between two attempts to interrupt code that is shielded."""

# The signal that interrupts a system call of the main thread. It is ignored by default, so it does no harm if it comes
# too late.
_WAKE = signal.SIGURG

_shields: dict[int, int] = {}  # the number of nested shields of each thread, by its identifier
_deferred: list[Callable[[], None]] = []  # at most one action, for the end of the main thread's shield
_pending: set[int] = set()  # threads to which an exception was sent that they have not raised yet
_delivery = threading.Lock()  # held while a thread is interrupted, so that it does not enter a shield meanwhile


class _ShieldBlock:
    """A `with` block that restores the shields of its thread when it is left.

    It is not a generator: an interrupted generator would restore them whenever it is garbage-collected.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._depth = _shields.get(self._thread, 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._depth:
            _shields[self._thread] = self._depth
        else:
            _drop_shield(self._thread)


class _Shielded(_ShieldBlock):
    def __enter__(self) -> None:
        try:
            _shields[self._thread] = self._depth + 1
            if not _is_main_thread():
                with _delivery:
                    pass  # whoever saw no shield has sent the exception by now
                _await_exception(self._thread)  # raise it here, not in the block
        except BaseException:
            self.__exit__(None, None, None)
            raise


class _Exposed(_ShieldBlock):
    def __enter__(self) -> None:
        try:
            _drop_shield(self._thread)
        except BaseException:
            self.__exit__(None, None, None)
            raise


def shielded() -> _Shielded:
    """Defer interruptions of this thread until the end of the `with` block, or until an `exposed` block in it."""
    return _Shielded()


def exposed() -> _Exposed:
    """Allow interruptions in the `with` block, even if it is inside a `shielded` block."""
    return _Exposed()


def _drop_shield(thread: int) -> None:
    _shields.pop(thread, None)
    if _deferred and _is_main_thread():
        _deferred.pop()()


def interrupt(action: Callable[[], None]) -> None:
    """Call an action that raises an exception: now, or at the end of the shield. For signal handlers.

    :param action: what to call; a deferred action replaces an earlier one
    """
    if is_shielded(threading.get_ident()):
        _deferred[:] = [action]
    else:
        action()


def is_shielded(thread: int) -> bool:
    """Return whether the thread with this identifier must not be interrupted now."""
    return thread in _shields


class TimeLimit:
    """A `with` block that is interrupted by `TokenTimeout` if it takes too long.

    The main thread is interrupted even while it sleeps or waits. Other threads are only interrupted between two
    bytecode instructions, so not during a long system call.

    :param seconds: the limit, None for no limit
    :param is_finished: called when the time is up; if it returns True, the code gets another `grace` seconds to end
    :param end_children: called when the time is up; if it returns True, there were children to end, and the code gets
        a few seconds to end by itself
    :param grace: seconds that interrupted code has to clean up before it is interrupted again
    """

    def __init__(
        self,
        seconds: float | None,
        is_finished: Callable[[], bool],
        end_children: Callable[[], bool],
        grace: float = 30.0,
    ) -> None:
        self.expired = False
        """Whether the code was interrupted or its children were ended, because the time was up."""
        self.was_finished = False
        """Whether the code was finished when the time was up."""
        self.seconds = seconds or 0.0
        self._is_limited = seconds is not None
        self._is_finished = is_finished
        self._end_children = end_children
        self._grace = grace
        self._left = threading.Event()  # set when the block is left
        self._thread = threading.get_ident()
        self._is_main = _is_main_thread()
        self._watch: threading.Thread | None = None
        self._interrupting: type[BaseException] | None = None  # the exception for the main thread
        self._hits = 0  # how often the code was interrupted
        self._previous: Any = None

    def __enter__(self) -> TimeLimit:
        with shielded():
            if self._is_main:
                self._previous = signal.signal(_WAKE, self._on_wake) or signal.SIG_DFL
            if self._is_limited:
                watch = threading.Thread(target=self._run, name="picas-time-limit", daemon=True)
                start_thread(watch)
                self._watch = watch
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop interrupting. Leaving the block does the same, unless it is itself interrupted."""
        self._left.set()
        if not self._is_main:
            with _delivery:
                pass  # no exception is sent after this
            with contextlib.suppress(TokenTimeout):
                _await_exception(self._thread)  # otherwise it would be raised after the block
        if self._is_main and self._previous is not None:
            with _delivery:
                self._interrupting = None
            signal.signal(_WAKE, self._previous)
            self._previous = None
        if self._watch is not None:
            self._watch.join()  # it may still be ending children, and sets `expired` only after that
            self._watch = None

    def break_off(self, kind: type[BaseException], seconds: float, is_waiting: Callable[[], bool] = never) -> bool:
        """Interrupt the code now, whatever its limit, and again until the block is left. Called from another thread.

        :param kind: the exception to raise in the code; it is called without arguments
        :param seconds: how long to try
        :param is_waiting: returns whether the code waits for a child; meanwhile it is not interrupted
        :returns: whether the block was left
        """
        give_up = time.monotonic() + seconds
        while not self._left.is_set() and time.monotonic() < give_up:
            self._left.wait(min(self._grace, seconds) if self._interrupt(kind, is_waiting) else RETRY)
        return self._left.is_set()

    def _run(self) -> None:
        if self._left.wait(self.seconds):
            return
        self.was_finished = self._is_finished()
        if self.was_finished and self._left.wait(self._grace):
            return
        if self._end_children():
            self.expired = True
            if self._left.wait(SETTLE):
                return
        while not self._left.is_set():
            # Repeat this: a child may just be starting, and the code may start more of them.
            self.expired |= self._end_children()
            self._left.wait(self._grace if self._interrupt(TokenTimeout) else RETRY)

    def _interrupt(self, kind: type[BaseException], is_waiting: Callable[[], bool] = never) -> bool:
        """Interrupt the code and return True, or return False if it can't be interrupted now."""
        with _delivery:
            # The order matters: a starting child is recorded while the code is shielded.
            if self._left.is_set() or is_shielded(self._thread) or is_waiting():
                return False
            hits = self._hits
            if self._is_main:
                self._interrupting = kind
                signal.pthread_kill(self._thread, _WAKE)
            else:
                _pending.add(self._thread)
                _raise_in(self._thread, self._exception_class(kind))
        # The code may have entered a shield before the signal or the exception arrived.
        return wait_until(lambda: self._hits > hits or self._left.is_set(), RETRY)

    def _on_wake(self, signum: int, frame: FrameType | None) -> None:
        kind = self._interrupting
        if kind is not None and not self._left.is_set() and not is_shielded(self._thread):
            self._interrupting = None
            raise self._exception_class(kind)

    def _exception_class(self, kind: type[BaseException]) -> type[BaseException]:
        """Return a subclass that notifies this limit when it is raised: Python creates the instance only then."""
        limit = self

        class Interruption(kind):  # type: ignore[valid-type,misc]
            def __init__(self) -> None:
                limit._note_hit(kind)
                super().__init__(*([limit._text()] if kind is TokenTimeout else []))

        return Interruption

    def _note_hit(self, kind: type[BaseException]) -> None:
        _pending.discard(self._thread)
        self._hits += 1
        self.expired |= kind is TokenTimeout

    def _text(self) -> str:
        return f"the limit of {self.seconds} s is over"


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _raise_in(thread: int, kind: type[BaseException]) -> None:
    """Raise an exception in another thread at its next bytecode instruction."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def _await_exception(thread: int) -> None:
    """Wait until a pending exception is raised in this thread, here.

    It can't be cancelled: in Python 3.11, a cancelled exception leaves a flag of the interpreter set, which makes
    debuggers and coverage measurements hang.
    """
    give_up = time.monotonic() + RETRY
    while thread in _pending and time.monotonic() < give_up:
        time.sleep(0)
