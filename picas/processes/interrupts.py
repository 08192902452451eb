"""Interrupt Python code from outside: when its time is up, or when the pilot is told to stop.

What must not be torn in two (a lock that is being written, a child that is being started) runs `shielded`.
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
from ..util import wait_until

SETTLE = 5.0
"""Seconds that the code has to end by itself once its children are gone, before it is interrupted."""
RETRY = 0.2
"""Seconds until code that was shielded is interrupted after all."""

# The signal that wakes the main thread out of a system call. Its default is to be ignored, so one that comes late does
# no harm.
_WAKE = signal.SIGURG

_shields: dict[int, int] = {}  # how many shields each thread stands behind, by its identifier
_deferred: list[Callable[[], None]] = []
_on_the_way: set[int] = set()  # the threads that an exception was sent to and has not hit yet
_delivery = threading.Lock()  # held by a watch while it interrupts, so that a shield is not raised in between


class _Block:
    """A block of code whose end puts back the shields that its thread stood behind before.

    No generator: one that an interruption leaves half-way would put them back whenever it is collected.
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


class _Shielded(_Block):
    def __enter__(self) -> None:
        try:
            _shields[self._thread] = self._depth + 1
            if not _is_main_thread():
                with _delivery:
                    pass  # a watch that saw no shield has sent its exception by now
                _await_exception(self._thread)  # here, not in the block
        except BaseException:
            self.__exit__(None, None, None)
            raise


class _Exposed(_Block):
    def __enter__(self) -> None:
        try:
            _drop_shield(self._thread)
        except BaseException:
            self.__exit__(None, None, None)
            raise


def shielded() -> _Shielded:
    """Put off interruptions of this thread until the end of a `with` block, or until one in it that is `exposed`."""
    return _Shielded()


def exposed() -> _Exposed:
    """Let interruptions through in a `with` block, though it stands in one that is `shielded`."""
    return _Exposed()


def _drop_shield(thread: int) -> None:
    _shields.pop(thread, None)
    if _deferred and _is_main_thread():
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
    :param is_finished: asked when the time is up; if it returns True, the code has a further `grace` to come to its end
    :param end_children: called when the time is up; returns whether there were children to end, in which case the code
        has a few seconds to end by itself
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
        """Whether the code was broken off: itself interrupted, or its children ended."""
        self.was_finished = False
        """Whether the code had its result when the time was up."""
        self.seconds = seconds or 0.0
        self._is_limited = seconds is not None
        self._is_finished = is_finished
        self._end_children = end_children
        self._grace = grace
        self._left = threading.Event()
        self._thread = threading.get_ident()
        self._is_main = _is_main_thread()
        self._watch: threading.Thread | None = None
        self._interrupting: type[BaseException] | None = None  # what the main thread is interrupted by
        self._hits = 0
        self._previous: Any = None

    def __enter__(self) -> TimeLimit:
        with shielded():
            if self._is_main:
                self._previous = signal.signal(_WAKE, self._on_wake) or signal.SIG_DFL
            if self._is_limited:
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
        if not self._is_main:
            with _delivery:
                pass  # from here on nobody interrupts any more
            with contextlib.suppress(TokenTimeout):
                _await_exception(self._thread)  # it would hit the code after the block
        if self._is_main and self._previous is not None:
            with _delivery:
                self._interrupting = None
            signal.signal(_WAKE, self._previous)
            self._previous = None
        if self._watch is not None:
            self._watch.join()  # it may be ending the children still, and only then knows whether it broke anything off
            self._watch = None

    def break_off(
        self, kind: type[BaseException], seconds: float, is_waiting: Callable[[], bool] = lambda: False
    ) -> bool:
        """Interrupt the code now, whatever its limit, and again until it is left; return whether it was.

        Called from another thread.

        :param kind: what is raised in the code; called without arguments
        :param seconds: how long to try
        :param is_waiting: tells whether the code waits for a child; it is left alone as long
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
            # Again and again: a child may have been in the making just now, and code may go on to start the next.
            self.expired |= self._end_children()
            self._left.wait(self._grace if self._interrupt(TokenTimeout) else RETRY)

    def _interrupt(self, kind: type[BaseException], is_waiting: Callable[[], bool] = lambda: False) -> bool:
        """Interrupt the code and return True, unless it must not be interrupted now."""
        with _delivery:
            # In this order: a child is noted while the code stands behind a shield.
            if self._left.is_set() or is_shielded(self._thread) or is_waiting():
                return False
            hits = self._hits
            if self._is_main:
                self._interrupting = kind
                signal.pthread_kill(self._thread, _WAKE)
            else:
                _on_the_way.add(self._thread)
                _raise_in(self._thread, self._exception_class(kind))
        # It may have stepped behind a shield before it was hit.
        return wait_until(lambda: self._hits > hits or self._left.is_set(), RETRY)

    def _on_wake(self, signum: int, frame: FrameType | None) -> None:
        kind = self._interrupting
        if kind is not None and not self._left.is_set() and not is_shielded(self._thread):
            self._interrupting = None
            raise self._exception_class(kind)

    def _exception_class(self, kind: type[BaseException]) -> type[BaseException]:
        """Return an exception that tells this limit when it is raised: Python makes the instance only then."""
        limit = self

        class Interruption(kind):  # type: ignore[valid-type,misc]
            def __init__(self) -> None:
                limit._note_hit(kind)
                super().__init__(*([limit._text()] if kind is TokenTimeout else []))

        return Interruption

    def _note_hit(self, kind: type[BaseException]) -> None:
        _on_the_way.discard(self._thread)
        self._hits += 1
        self.expired |= kind is TokenTimeout

    def _text(self) -> str:
        return f"the limit of {self.seconds} s is over"


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _raise_in(thread: int, kind: type[BaseException]) -> None:
    """Raise an exception in another thread at its next step."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def _await_exception(thread: int) -> None:
    """Return once no exception is on its way to this thread; one that is gets raised here.

    It can't be taken back: in Python 3.11 that leaves the interpreter's mark for it set, on which a debugger or a
    measurement of coverage then hangs.
    """
    give_up = time.monotonic() + RETRY
    while thread in _on_the_way and time.monotonic() < give_up:
        time.sleep(0)
