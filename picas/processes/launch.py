"""Start supervisor processes: by a fork server, or as forks of this process where no interpreter can run its script."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

from ..picaslogger import get_logger
from . import forkserver, supervisor
from .channels import Channel
from .forkserver import STATUS

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


class ForkServer:
    """A process that forks supervisors, see `forkserver`.

    :param inherited: what it inherits from this thread and passes on, see `inherited_attributes`
    :raises SupervisorLost: if no interpreter can run its script
    :raises OSError: if there are too many processes, or not enough memory
    """

    def __init__(self, inherited: object) -> None:
        self.inherited = inherited
        self._channel = Channel()
        with self._channel.theirs:
            _start_script(self._channel.theirs)

    def fork(self, connection: socket.socket) -> None:
        """Start a supervisor at the other end of a connection.

        :raises SupervisorLost: if the fork server has ended
        :raises OSError: if there are too many processes, or not enough memory
        """
        try:
            self._channel.send(b"s", [connection.fileno()])
        except ConnectionError:
            raise SupervisorLost from None
        answer = b""
        while len(answer) < STATUS.size:
            received = self._channel.receive()
            if not received:
                raise SupervisorLost
            answer += received
        number = STATUS.unpack_from(answer)[0]
        if number:
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Let it end. Its supervisors go on."""
        self._channel.close()


def _start_script(connection: socket.socket) -> None:
    """Start the script of a fork server at the other end of a connection.

    :raises SupervisorLost: if no interpreter can run it
    :raises OSError: if there are too many processes, or not enough memory
    """
    path = Path(os.path.abspath(forkserver.__file__))  # noqa: PTH100  # keep symbolic links
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
    if parent.wait() != 0:
        raise SupervisorLost


def fork_supervisor(connection: socket.socket) -> None:
    """Let a fork of this process be a supervisor at the other end of a connection.

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
        return
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for number, descriptor in enumerate((ours, null, null)):
                os.dup2(descriptor, number)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            supervisor.main()
    finally:
        os._exit(0)
