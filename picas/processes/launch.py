"""Start supervisor processes: as scripts, or as forks of this process where no interpreter can run the script."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Callable

from ..logs import get_logger
from . import supervisor as script

log = get_logger(__name__)

_INHERITED = tuple(
    f"{name}:".encode()
    for name in (
        "Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "CapInh", "CapPrm", "CapBnd", "CapAmb",
        "NoNewPrivs", "Seccomp", "Cpus_allowed", "Mems_allowed",
    )
)  # fmt: skip
"""The lines of /proc/…/status with what a process inherits from its parent."""
_LIMITS = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})


class SupervisorLost(Exception):
    """The supervisor has ended before it started the program."""


Start = Callable[[socket.socket], Callable[[], object]]
"""Starts a supervisor process with one end of a connection, and returns a function that waits until it has started.

Both raise `SupervisorLost` if no interpreter can run the script.
"""


def inherited_attributes() -> object:
    """Return what a process that is started by this thread inherits, except its environment and descriptors.

    What of it can't be read without doing harm on this system is left out.
    """
    try:
        with open("/proc/thread-self/status", "rb", buffering=0) as file:  # noqa: PTH123  # faster than `Path`
            lines = file.read().split(b"\n")
    except OSError:
        lines = []
    limits = [resource.getrlimit(limit) for limit in _LIMITS]
    return [line for line in lines if line.startswith(_INHERITED)], limits, os.getpriority(os.PRIO_PROCESS, 0)


def start_supervisor(connection: socket.socket) -> Callable[[], object]:
    """Start the script of a supervisor, see `Start`.

    :raises SupervisorLost: if no interpreter can run it
    :raises OSError: if there are too many processes, or not enough memory
    """
    path = Path(os.path.abspath(script.__file__))  # noqa: PTH100  # keep symbolic links
    if not sys.executable or getattr(sys, "frozen", False) or not path.is_file():
        raise SupervisorLost
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PICAS_")}
    try:
        parent = subprocess.Popen(
            [sys.executable, "-I", "-S", str(path)],
            stdin=connection.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            raise
        log.warning("%s can't be started (%s): this process is forked instead", sys.executable, error)
        raise SupervisorLost from None

    def wait() -> None:
        if parent.wait() != 0:
            raise SupervisorLost

    return wait


def fork_supervisor(connection: socket.socket) -> Callable[[], object]:
    """Let a fork of this process be a supervisor, see `Start`.

    :raises OSError: if there are too many processes, or not enough memory
    """
    ours = os.dup(connection.fileno())  # the fork closes all connections that it knows
    try:
        pid = os.fork()
    except BaseException:
        os.close(ours)
        raise
    if pid:
        os.close(ours)
        with contextlib.suppress(ChildProcessError):  # the user's code, or the system, has waited for it
            os.waitpid(pid, 0)
        return lambda: None
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for number, descriptor in enumerate((ours, null, null)):
                os.dup2(descriptor, number)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            script.main()
    finally:
        os._exit(0)
