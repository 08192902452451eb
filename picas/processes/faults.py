"""Errors that are the fault of the node on which the pilot runs, and not that of a token: a full disk, for example."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Iterator

from ..exceptions import NodeFault

_OF_ANY_CODE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})
_OF_OWN_CODE = _OF_ANY_CODE | {errno.EAGAIN, errno.ENOMEM, errno.EPIPE, errno.ECHILD, errno.EIO, errno.EROFS}
_NO_TEMPORARY_FOLDER = "No usable temporary directory"
_LIMITS = {
    errno.EMFILE: ("ulimit -n", resource.RLIMIT_NOFILE, 1),
    errno.EAGAIN: ("ulimit -u", resource.RLIMIT_NPROC, 1),
    errno.ENOMEM: ("ulimit -v", resource.RLIMIT_AS, 1024),
    errno.ECHILD: ("ulimit -v", resource.RLIMIT_AS, 1024),
}
"""For an error, the limit of this process that may be its cause: its name in a shell, its number and its unit."""


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


def describe_fault(fault: NodeFault) -> str:
    """Return one line about a fault, which names the limit that may be its cause."""
    text = str(fault.strerror) if fault.filename is None else f"{fault.strerror}: {_text(fault.filename)}"
    name, limit, unit = _LIMITS.get(fault.errno or 0, ("", resource.RLIMIT_CORE, 1))
    value = resource.getrlimit(limit)[0]
    return text if not name or value == resource.RLIM_INFINITY else f"{text} ({name} is {value // unit})"


def _text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, bytes) else str(name)


def _fault(error: OSError) -> NodeFault:
    if error.filename is None:
        return NodeFault(error.errno, error.strerror)
    return NodeFault(error.errno, error.strerror, error.filename)
