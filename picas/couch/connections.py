"""The connections to a server: how long they may take, whom they trust, and which of them stand ready."""

from __future__ import annotations

import errno
import http.client
import os
import select
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import certifi

from ..exceptions import SettingsError

CONNECT_TIMEOUT = 10.0
"""Seconds until a connection must stand."""
READ_TIMEOUT = 60.0
"""Seconds without a byte from the server after which an answer counts as lost."""
MAX_IDLE_CONNECTIONS = 32


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for the server, in seconds."""

    connect: float = CONNECT_TIMEOUT
    read: float = READ_TIMEOUT


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """Return the TLS settings for all connections to one server.

    :param verify: True for the system's certificate authorities and those of `certifi`, False for no check at all, or
        the path of a file or folder of CA certificates that are trusted instead
    :raises SettingsError: if that path holds no certificates
    """
    if verify is False:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if verify is True:
        context = ssl.create_default_context()
        context.load_verify_locations(cafile=certifi.where())
        return context
    folder = Path(verify).is_dir()
    try:
        return ssl.create_default_context(cafile=None if folder else verify, capath=verify if folder else None)
    except OSError as error:  # it does not name the file
        raise SettingsError(f"can't read CA certificates from {verify} ({explain(error)})") from error


class ConnectionPool:
    """The idle connections of a session; any thread may take and give back."""

    def __init__(self, timeouts: Timeouts, verify: bool | str) -> None:
        self._timeouts = timeouts
        self._verify = verify
        self._tls: ssl.SSLContext | None = None
        # A deque's append and pop are atomic. A lock could be held by the very code that a signal handler interrupts,
        # and the handler needs a connection too.
        self._idle: dict[tuple[str, str], deque[http.client.HTTPConnection]] = {}
        self._pid = os.getpid()

    def get(self, url: str) -> http.client.HTTPConnection:
        """Return a connection to the URL's server that stands.

        :raises OSError: if none can be made
        """
        if self._pid != os.getpid():  # after a fork the connections are the parent's
            self._idle, self._pid = {}, os.getpid()
        server = urlsplit(url)[:2]
        idle = self._idle.setdefault(server, deque())
        while True:
            try:
                connection = idle.pop()
            except IndexError:
                return self._connect(*server)
            if _is_usable(connection):
                return connection
            connection.close()

    def release(self, url: str, connection: http.client.HTTPConnection) -> None:
        """Take a connection back whose answer was read to its end."""
        idle = self._idle.setdefault(urlsplit(url)[:2], deque())
        if len(idle) < MAX_IDLE_CONNECTIONS:
            idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def _connect(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if scheme == "https":
            if self._tls is None:
                self._tls = tls_context(self._verify)
            connection = http.client.HTTPSConnection(netloc, timeout=self._timeouts.connect, context=self._tls)
        elif scheme == "http":
            connection = http.client.HTTPConnection(netloc, timeout=self._timeouts.connect)
        else:
            raise ValueError(f"the URL must begin with http:// or https://, not with {scheme}://")
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        connection.sock.settimeout(self._timeouts.read)
        return connection


def _is_usable(connection: http.client.HTTPConnection) -> bool:
    """Tell whether an idle connection still stands: the server says nothing between requests, unless it closes."""
    if connection.sock is None:
        return False
    poll = select.poll()
    try:
        poll.register(connection.sock, select.POLLIN)
        return not poll.poll(0)
    except (OSError, ValueError):
        return False


def server_of(url: str) -> str:
    """Return the scheme, host and port of a URL: what may be shown of it."""
    scheme, netloc = urlsplit(url)[:2]
    return f"{scheme}://{netloc.rpartition('@')[2]}"


def explain(error: BaseException) -> str:
    """Return why a connection failed, in a few words."""
    if isinstance(error, (socket.timeout, TimeoutError)):
        return "time-out"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'reason', None) or error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def is_hopeless(error: OSError) -> bool:
    """Tell whether trying the connection again right away is a waste of time."""
    name_unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
    return name_unknown or error.errno in (errno.EACCES, errno.EPERM) or isinstance(error, FileNotFoundError)
