"""Connections to a server: time-outs, TLS, and the pool of idle connections."""

from __future__ import annotations

import errno
import http.client
import math
import os
import select
import socket
import ssl
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from couchdb.http import HTTPError

from ..exceptions import SettingsError
from ..util import one_line

CONNECT_TIMEOUT = 10.0
"""Seconds within which a connection must be made."""
READ_TIMEOUT = 60.0
"""Seconds without a byte from the server after which an answer counts as lost."""
MAX_IDLE_CONNECTIONS = 32
MAX_IDLE = 10.0
"""Seconds after which an idle connection is not used again: something on the way may have dropped it without a word."""
KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""When the system checks a connection on which an answer is awaited; macOS has the second name for the first."""

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)
"""Where Debian, Red Hat and SUSE keep the certificate authorities that the system trusts."""


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for the server, in seconds."""

    connect: float = CONNECT_TIMEOUT
    read: float = READ_TIMEOUT
    patience: float = math.inf
    """After this time a request is not repeated."""

    def in_a_hurry(self) -> Timeouts:
        """Return time-outs for a pilot that is being stopped: a batch system kills it soon."""
        return Timeouts(min(self.connect, 5.0), min(self.read, 10.0), patience=5.0)


def fixed_verification(verify: bool | str) -> bool | str:
    """Return settings for `tls_context` that mean the same if code changes to another folder: an absolute path."""
    try:
        return verify if isinstance(verify, bool) else str(Path(verify).absolute())
    except FileNotFoundError:  # the working directory is gone
        return verify


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """Return the TLS settings for all connections to one server.

    :param verify: True to trust the certificate authorities of the system and those that `requests` brings, if it is
        installed; False to check nothing; or the path of a file or folder of CA certificates to trust instead
    :raises SettingsError: if there are no certificates at that path
    """
    if verify is False:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if verify is True:
        context = ssl.create_default_context()
        for bundle in _bundles():
            context.load_verify_locations(cafile=bundle)
        return context
    folder = Path(verify).is_dir()
    try:
        return ssl.create_default_context(cafile=None if folder else verify, capath=verify if folder else None)
    except OSError as error:  # the error does not name the file
        raise SettingsError(f"can't read CA certificates from {verify} ({explain(error)})") from error


def _bundles() -> list[str]:
    """Return the files of certificate authorities to trust besides those that OpenSSL finds by itself.

    A worker node may lack `requests`, and its Python may look for the system's authorities where another system has
    them.
    """
    try:
        from requests.utils import DEFAULT_CA_BUNDLE_PATH  # noqa: PLC0415  # takes a while, and only TLS needs it
    except ImportError:
        return [path for path in SYSTEM_BUNDLES if Path(path).is_file()]
    return [DEFAULT_CA_BUNDLE_PATH]


class ConnectionPool:
    """The idle connections of a session. All threads may use it."""

    def __init__(self, timeouts: Timeouts, verify: bool | str) -> None:
        self.timeouts = timeouts
        self._verify = verify
        self._tls: ssl.SSLContext | None = None
        # A deque's append and pop are atomic. A lock could be held by the code that a signal handler interrupts, and
        # the handler needs a connection too.
        self._idle: dict[tuple[str, str], deque[tuple[http.client.HTTPConnection, float]]] = {}
        self._pid = os.getpid()

    def get(self, url: str) -> http.client.HTTPConnection:
        """Return an open connection to the URL's server.

        :raises OSError: if none can be made
        """
        if self._pid != os.getpid():  # after a fork the connections belong to the parent
            self._idle, self._pid = {}, os.getpid()
        server = urlsplit(url)[:2]
        idle = self._idle.setdefault(server, deque())
        while True:
            try:
                connection, since = idle.pop()
            except IndexError:
                return self._connect(*server)
            if time.monotonic() - since <= MAX_IDLE and _is_usable(connection):
                connection.sock.settimeout(self.timeouts.read)
                return connection
            connection.close()

    def release(self, url: str, connection: http.client.HTTPConnection) -> None:
        """Take back a connection whose answer was read to its end."""
        idle = self._idle.setdefault(urlsplit(url)[:2], deque())
        if len(idle) < MAX_IDLE_CONNECTIONS:
            idle.append((connection, time.monotonic()))
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections."""
        for idle in self._idle.values():
            while idle:
                idle.pop()[0].close()

    def _connect(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if scheme == "https":
            if self._tls is None:
                self._tls = tls_context(self._verify)
            connection = http.client.HTTPSConnection(netloc, timeout=self.timeouts.connect, context=self._tls)
        elif scheme == "http":
            connection = http.client.HTTPConnection(netloc, timeout=self.timeouts.connect)
        else:
            raise ValueError(f"the URL must begin with http:// or https://, not with {scheme}://")
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        for option in keep_alive():
            connection.sock.setsockopt(*option)
        connection.sock.settimeout(self.timeouts.read)
        return connection


def keep_alive() -> list[tuple[int, int, int]]:
    """Return the options of a socket for TCP keep-alive, as far as this system has them."""
    times = [
        (socket.IPPROTO_TCP, getattr(socket, name), seconds)
        for name, seconds in KEEP_ALIVE.items()
        if hasattr(socket, name)
    ]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *times]


def _is_usable(connection: http.client.HTTPConnection) -> bool:
    """Return whether an idle connection is open: between requests a server sends nothing, unless it closes."""
    if connection.sock is None:
        return False
    poll = select.poll()
    try:
        poll.register(connection.sock, select.POLLIN)
        return not poll.poll(0)
    except (OSError, ValueError):
        return False


def server_of(url: str) -> str:
    """Return the scheme, host and port of a URL, which may be shown."""
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
    if isinstance(error, HTTPError) and error.args:
        return one_line(error.args[0])
    return str(error) or type(error).__name__


def is_hopeless(error: OSError) -> bool:
    """Return whether it is useless to try again to connect at once."""
    name_unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
    return name_unknown or error.errno in (errno.EACCES, errno.EPERM) or isinstance(error, FileNotFoundError)
