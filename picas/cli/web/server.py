"""Running the page: on a port of this machine only, until a signal."""

from __future__ import annotations

import errno
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import uvicorn

from ...clients import CouchDB
from ...exceptions import PicasError
from ...pool.indexing import Indexing
from .application import Application
from .guard import TOKEN_BYTES
from .hub import Hub
from .poller import Poller

ADDRESS = "127.0.0.1"
"""The only address that is listened on. The name localhost may also lead to a program of another user, on ::1."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
END_PATIENCE = 2.0
"""Seconds that the open connections have at the end."""
_NAP = 0.5


def serve(
    client: CouchDB, port: int, at_index: Callable[[Indexing], Any], introduce: Callable[[str, int, str], Any]
) -> bool:
    """Serve the page of a pool until a signal (SIGINT, SIGTERM, SIGHUP), and return whether that has ended it.

    :param client: the pool
    :param port: the port, 0 for any free one
    :param at_index: called while the server of the pool indexes its views, before the page can be shown
    :param introduce: called with the link, the port and the token when the page can be opened
    :raises couchdb.ResourceNotFound: if the pool has no views
    :raises PicasError: if the port can't be had, or the server can't be reached
    """
    token, hub = secrets.token_urlsafe(TOKEN_BYTES), Hub()
    with _signals() as stopped, _listener(port) as listener:
        poller = Poller(client.copy(retries=False), hub.wake, at_index)
        application = Application(client, poller, hub, token)
        server = uvicorn.Server(
            uvicorn.Config(
                application.guarded,
                http="h11",
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                log_level="critical",  # what fails is logged where it fails, and nothing logs the token
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(END_PATIENCE),
            )
        )
        poller.start()
        # Elsewhere than in the main thread, uvicorn leaves the signals alone.
        thread = threading.Thread(target=server.run, args=([listener],), name="picas-web", daemon=True)
        thread.start()
        bound = listener.getsockname()[1]
        introduce(f"http://{ADDRESS}:{bound}/?token={token}", bound, token)
        while thread.is_alive() and not stopped.wait(_NAP):
            pass
        hub.close()
        poller.stop()
        server.should_exit = True
        thread.join(END_PATIENCE + 1)
    return stopped.is_set()


def _listener(port: int) -> socket.socket:
    try:
        return socket.create_server((ADDRESS, port), backlog=128)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"can't be had ({error.strerror})"
        raise PicasError(f"port {port} {why}: choose another one with --port, or leave --port out") from None


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Return an event that the first signal sets; further ones change nothing."""
    stopped = threading.Event()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN or number != signal.SIGHUP:  # nohup ignores it
            signal.signal(number, lambda number, frame: stopped.set())
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
