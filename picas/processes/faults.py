"""Errors that are the fault of the node on which the pilot runs, and not that of a token: a full disk, for example."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Iterator
from typing import Callable, TypeVar

from ..exceptions import NodeFault, Unreachable

T = TypeVar("T")

_OF_ANY_CODE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})
_OF_OWN_CODE = _OF_ANY_CODE | {errno.EAGAIN, errno.ENOMEM, errno.EPIPE, errno.ECHILD, errno.EIO, errno.EROFS}
_NO_TEMPORARY_FOLDER = "No usable temporary directory"
_LIMITS = {
    "n": (resource.RLIMIT_NOFILE, 1, {errno.EMFILE}),
    "u": (resource.RLIMIT_NPROC, 1, {errno.EAGAIN, errno.ECHILD}),
    "v": (resource.RLIMIT_AS, 1024, {errno.EAGAIN, errno.ECHILD, errno.ENOMEM}),
}
"""The limits of a process by their letter for `ulimit`: the number, the unit, and the errors that may come from it."""


def fault_of(error: BaseException) -> NodeFault | None:
    """Return the fault of the node that an error from the work on a token shows, None if it is the token's own.

    The rule: whatever the code, it is the node's fault if an `OSError` says that the disk or the quota is full (ENOSPC,
    EDQUOT) or that no file can be opened (EMFILE, ENFILE), and if the module `tempfile` finds no folder that it can
    write to. What comes from the user's own files and sockets is otherwise the token's. If this package itself can't
    start a program or write its output, that is the node's fault also for want of processes or memory (EAGAIN, ENOMEM,
    ECHILD) and on a broken disk (EIO, EROFS, EPIPE); see `own_work`.

    :param error: what the user's code raised
    """
    if isinstance(error, NodeFault) or not isinstance(error, OSError):
        return error if isinstance(error, NodeFault) else None
    is_without_folder = error.errno == errno.ENOENT and str(error.strerror).startswith(_NO_TEMPORARY_FOLDER)
    return _fault(error) if error.errno in _OF_ANY_CODE or is_without_folder else None


def reach(request: Callable[[], T]) -> T:
    """Return what a request to the database returns; without a free descriptor for it, the database is not to blame.

    :raises NodeFault: instead of the error of a connection that this node could not even begin
    """
    try:
        return request()
    except Unreachable as error:
        fault = None if error.__cause__ is None else fault_of(error.__cause__)
        raise fault or error from error.__cause__


@contextlib.contextmanager
def own_work() -> Iterator[None]:
    """Raise a `NodeFault` for an error that is the node's fault in the code of this package; no user code runs in it.

    :raises NodeFault: instead of such an `OSError`
    """
    try:
        yield
    except NodeFault:
        raise
    except OSError as error:
        if error.errno in _OF_OWN_CODE:
            raise _fault(error) from error
        raise


def start_thread(thread: threading.Thread) -> None:
    """Start a thread of this package.

    :raises NodeFault: if there can be no further thread
    """
    try:
        thread.start()
    except RuntimeError as error:  # it has no number
        raise NodeFault(errno.EAGAIN, "no further thread can be started") from error


def describe_system_error(error: OSError) -> str:
    """Return one line about an error that has a number; it names the limits that may be its cause."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    limits = ", ".join(_limits(error.errno))
    return f"{'' if name is None else f'{name}: '}{error.strerror}{limits and f' ({limits})'}"


def _limits(number: int | None) -> Iterator[str]:
    """Yield the limits that may be the cause of an error, with their values."""
    for letter, (limit, unit, errors) in _LIMITS.items():
        value = resource.getrlimit(limit)[0]
        if number in errors and value != resource.RLIM_INFINITY:
            yield f"ulimit -{letter} is {value // unit}"


def _fault(error: OSError) -> NodeFault:
    if error.filename is None:
        return NodeFault(error.errno, error.strerror)
    return NodeFault(error.errno, error.strerror, error.filename)
