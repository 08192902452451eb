"""What brings a run to its end whatever happens: when PiCaS' own code raises, or user code has used up a resource."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import Any, Callable, NoReturn

from ..picaslogger import get_logger

log = get_logger(__name__)

LEAST_RECURSION = 1000
"""The lowest recursion limit in which a run's own code works; it is the interpreter's default."""
SPARE_DESCRIPTORS = 8
"""Enough to connect to the database and to spool a result."""


def quietly(step: Callable[[], object], what: str) -> bool:
    """Do a step of an end whose other steps must follow, and return whether it worked; an error is only logged.

    :param what: what does not work if it fails, for the log
    """
    try:
        step()
    except Exception:
        log.exception("%s failed", what)
        return False
    return True


def call(hook: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call the user's code, and undo what it does to the interpreter that the run's own code can't work with.

    A process that it has forked, and that comes back from it, ends here: it is no pilot.

    :returns: what it returns
    :raises BaseException: what it raises
    """
    pid = os.getpid()
    try:
        result = hook(*arguments, **named)
    except BaseException as error:
        if os.getpid() != pid:
            _leave(error)
        raise
    finally:
        restore_recursion_limit()
    if os.getpid() != pid:
        _leave()
    return result


def _leave(error: BaseException | None = None) -> NoReturn:
    """End a forked process as Python does, but without anything that was registered for the end of the pilot."""
    code = 0
    try:
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            code = 1
            traceback.print_exception(type(error), error, error.__traceback__)
        sys.stdout.flush()
    finally:
        os._exit(code & 0xFF)


def restore_recursion_limit() -> None:
    """Raise the recursion limit to `LEAST_RECURSION`, if user code has lowered it."""
    if sys.getrecursionlimit() < LEAST_RECURSION:
        sys.setrecursionlimit(LEAST_RECURSION)


class SpareDescriptors:
    """Descriptors that are free when they are needed, even if user code leaves all others open."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._inodes: set[int] = set()

    def keep(self) -> None:
        """Open them."""
        with contextlib.suppress(OSError):  # then there are none to spare
            self._descriptors += os.pipe()
            self._inodes = {os.fstat(descriptor).st_ino for descriptor in self._descriptors}
            while len(self._descriptors) < SPARE_DESCRIPTORS:
                self._descriptors.append(os.dup(self._descriptors[0]))

    def release(self) -> None:
        """Close them, unless user code has done so."""
        while self._descriptors:
            descriptor = self._descriptors.pop()
            with contextlib.suppress(OSError):
                if os.fstat(descriptor).st_ino in self._inodes:  # else it is another file by now
                    os.close(descriptor)
