"""The pilot's ends of the sockets over which it talks to its fork server and its supervisors."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Sequence

_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # cause no SIGPIPE, whose default action is to end this process
_CHUNK = 1 << 12  # bytes to receive at once; messages to the pilot are short


class Channel:
    """A pair of connected sockets, one of them for another process.

    User code may close the descriptor of this process's end, and another file may get it: that is noticed.
    """

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        """The end for the other process. Whoever passes it on closes it."""
        self._inode = os.fstat(self._ours.fileno()).st_ino

    @property
    def is_closed(self) -> bool:
        """Whether this process has closed its end."""
        return self._ours.fileno() < 0

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send data, and descriptors together with its first byte.

        :raises OSError: if the other process has ended, or there are too many open files
        """
        self._check()
        numbers = b"".join(descriptor.to_bytes(4, sys.byteorder) for descriptor in descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if descriptors else []
        sent = self._ours.sendmsg([data], ancillary, _NO_SIGNAL)
        if sent < len(data):
            self._ours.sendall(memoryview(data)[sent:], _NO_SIGNAL)

    def receive(self) -> bytes:
        """Wait for data, and return it; nothing at the end of the connection."""
        try:
            self._check()
            return self._ours.recv(_CHUNK)
        except OSError:
            return b""

    def shutdown(self) -> None:
        """End the connection: both ends notice that."""
        with contextlib.suppress(OSError):
            self._check()
            self._ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the end of this process."""
        try:
            self._check()
        except ConnectionError:
            self._ours.detach()  # the descriptor is somebody else's
        else:
            self._ours.close()

    def _check(self) -> None:
        """Check that the descriptor still is that of the socket.

        :raises ConnectionError: if somebody has closed it
        """
        try:
            inode = os.fstat(self._ours.fileno()).st_ino
        except OSError:
            inode = 0
        if inode != self._inode:
            raise ConnectionAbortedError
