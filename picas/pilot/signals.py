"""The signals of a pilot's process: put in order for a run, and in order for each token."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Callable, Union

from ..picaslogger import get_logger

log = get_logger(__name__)

Handler = Callable[[int, Union[FrameType, None]], Any]

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals with which batch systems warn of the end of a job. By default they would end the process at once. They stop a
run unless the script has a handler of its own for them: sbatch(1), --signal; qsub(1) of Grid Engine, -notify."""

# Asked for each token, so not through the functions of `signal`: those make members of enumerations of the answers.
_fast: Any = sys.modules.get("_signal", signal)

_installed: weakref.WeakSet[Signals] = weakref.WeakSet()  # those with handlers of theirs

_of_thread = threading.local()


@dataclass(frozen=True)
class State:
    """Which handlers and which blocked signals a process has."""

    handlers: list[Any]
    blocked: set[int]


class Signals:
    """The signals that stop a run, and SIGCHLD: who ignores or blocks it gets no exit code of a child.

    What is changed is undone at the end of the run. Only the main thread can change handlers; in another, nothing is
    changed but the blocked signals of that thread.

    :param stop_signals: the signals that stop the run, besides `WARNINGS`
    """

    def __init__(self, stop_signals: Iterable[int]) -> None:
        self.stop_signals = tuple(stop_signals)
        self.warnings = tuple(signum for signum in WARNINGS if signum not in self.stop_signals)
        self._watched = tuple(map(int, (*self.stop_signals, signal.SIGCHLD)))
        self._previous: dict[int, Any] = {}  # handlers
        self._blocked: Iterable[int] | None = None

    def put_in_order(self) -> None:
        """Let this process hear its signals, whatever it has inherited from the program that started it."""
        self._blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, [*self.stop_signals, signal.SIGCHLD])
        if _is_main_thread() and signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            self._set(signal.SIGCHLD, signal.SIG_DFL)

    def handle(self, handler: Handler) -> None:
        """Make the stop signals call a handler. Does nothing outside the main thread."""
        if not _is_main_thread():
            log.info("Not in the main thread: no signal handlers are installed")
            return
        for signum in self.stop_signals:
            if signum == signal.SIGHUP and signal.getsignal(signum) == signal.SIG_IGN:
                continue  # started with nohup
            self._set(signum, handler)
        for signum in self.warnings:
            if signal.getsignal(signum) == signal.SIG_DFL:
                self._set(signum, handler)

    def restore(self) -> None:
        """Undo what was changed."""
        while self._previous:
            _set(*self._previous.popitem())
        blocked, self._blocked = self._blocked, None
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        _installed.discard(self)

    def restore_in_fork(self) -> None:
        """Undo what was changed, but ignore nothing: a forked process needs exit codes, and is stopped by signals."""
        while self._previous:
            signum, handler = self._previous.popitem()
            _set(signum, signal.SIG_DFL if handler == signal.SIG_IGN else handler)
        _installed.discard(self)

    def state(self) -> State | None:
        """Return how things are, None outside the main thread."""
        if not _is_main_thread():
            return None
        return State(list(map(_fast.getsignal, self._watched)), _fast.pthread_sigmask(signal.SIG_BLOCK, ()))

    def restore_state(self, before: State | None) -> None:
        """Undo what the user's code has changed since then: it may have replaced or blocked a signal."""
        now = self.state()
        if before is None or now is None or now == before:
            return
        log.info("The user's code has changed the signals of the pilot: they are put in order")
        for signum, handler, changed in zip(self._watched, before.handlers, now.handlers):
            if changed != handler:
                _set(signum, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before.blocked)

    def _set(self, signum: int, handler: Any) -> None:
        self._previous.setdefault(signum, signal.getsignal(signum))
        signal.signal(signum, handler)
        _installed.add(self)


def _set(signum: int, handler: Any) -> None:
    signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _before_fork() -> None:
    """Keep stop signals from a new process until it has handlers of its own: Python drops what comes before."""
    signums = {signum for signals in list(_installed) for signum in (*signals.stop_signals, *signals.warnings)}
    _of_thread.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signums)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _of_thread.blocked)


def _after_fork_in_child() -> None:
    """Give a forked process, which is no pilot, the handlers that this one had before the run."""
    for signals in list(_installed):
        with contextlib.suppress(ValueError):  # not the main thread of the main interpreter
            signals.restore_in_fork()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
