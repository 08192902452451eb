"""The fork server: a small process that forks supervisors for its pilot, which is faster than to start an interpreter.

A pilot starts it as a separate script, and talks to it over the socket that is its standard input. For each supervisor
it sends one byte and a descriptor of the connection that the supervisor is to serve. The answer is `STATUS`: 0, or the
`errno` of the fork that has failed. The fork server ends with its pilot, or when the pilot closes the socket. Its
supervisors go on then: each notices the end of its own connection.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import struct
import sys

if __name__ == "__main__":  # started as a script: loading the package would make it slow to start and large
    if os.fork():
        os._exit(0)  # code of the pilot's user that waits for any child must not wait for this one
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  # pathlib is slow to import
    import supervisor  # type: ignore[import-not-found,unused-ignore]
else:
    from . import supervisor

STATUS = struct.Struct("!i")
"""The answer to a request."""


def serve(connection: socket.socket) -> None:
    """Fork a supervisor for each connection that arrives, until the pilot leaves."""
    gc.freeze()  # or the garbage collector of each supervisor would copy memory that they share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for supervisors
    while True:
        data, descriptors = supervisor.receive(connection, 1)
        if not data:
            return
        connection.sendall(STATUS.pack(_fork(connection, descriptors)))
        for descriptor in descriptors:
            os.close(descriptor)


def _fork(connection: socket.socket, descriptors: list[int]) -> int:
    """Fork a supervisor, and return 0 or the number of an error."""
    if not descriptors:  # this process has too many open files
        return errno.EMFILE
    try:
        if os.fork():
            return 0
    except OSError as error:
        return error.errno or errno.EAGAIN
    try:
        os.setsid()
        connection.detach()
        os.dup2(descriptors[0], 0)
        os.close(descriptors[0])
        supervisor.main()
    finally:
        os._exit(0)


def main() -> None:
    """Serve the pilot at the other end of the standard input."""
    supervisor.prepare("picas-fork")
    try:  # noqa: SIM105  # it starts faster without contextlib
        serve(socket.socket(fileno=0))
    except OSError:  # the pilot was killed before it had its answer
        pass


if __name__ == "__main__":
    main()
