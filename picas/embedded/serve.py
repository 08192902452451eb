"""The command `picas serve`: run the embedded server in the foreground."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Callable

from picas.embedded.errors import EmbeddedServerError
from picas.embedded.node import user_folder
from picas.embedded.server import HOST, Server, write_private

DATABASE = "picas"
PORT_FILE = "port"
"""The file in the data folder with the port of the last time."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], None]


class _Stopped(BaseException):
    """A signal asks to stop. This is not an Exception, so that no handler for errors catches it."""


def default_data_folder() -> Path:
    """Return the default folder for the data: ${XDG_DATA_HOME:-~/.local/share}/picas.

    :raises EmbeddedServerError: if nobody knows the user's home
    """
    return user_folder("XDG_DATA_HOME", "~/.local/share")


def serve(
    data: Path | None,
    port: int | None = None,
    *,
    database: str = DATABASE,
    ready_file: Path | None = None,
    say: Say = print,
    complain: Say | None = None,
) -> int:
    """Run the embedded server until a signal (SIGINT, SIGTERM, SIGHUP) stops it.

    :param data: the folder for the databases (see `default_data_folder`), None to keep them in memory
    :param port: the port to listen on, 0 for any free port, None for the one that the last server with this data
        folder had, or for any free port if that is unknown or taken
    :param database: a database that is created if it does not exist
    :param ready_file: a file that is written when the server is ready and removed at the end. A shell can source it. It
        contains the path of the password file, not the password
    :param say: prints a line for the user
    :param complain: prints the line about an error, by default `say`
    :returns: the exit code: 0 if a signal stopped the server; 1 if it did not start, or ended by itself, with the
        reason printed
    """
    with _stop_on_signals():
        try:
            return _serve(data, port, database, ready_file, say)
        except _Stopped:
            say("stopped")
            return 0
        except (EmbeddedServerError, OSError) as exc:
            (complain or say)(f"picas serve: {exc}")
            return 1


def _serve(data: Path | None, port: int | None, database: str, ready_file: Path | None, say: Say) -> int:
    last = _last_port(data) if data is not None and port is None else None
    if port is None:
        port = last if last is not None and _is_free(last) else 0
    with ExitStack() as stack:
        server = stack.enter_context(Server(data, port=port, progress=say))
        if last is not None and server.port != last:
            say(f"port {last}, used last time, is not free: this server listens on port {server.port} instead")
        if server.data is not None and server.port != last:
            with suppress(OSError):  # the next start takes any port
                write_private(server.data / PORT_FILE, f"{server.port}\n")
        server.create_database(database)
        password_file = server.password_file or _temporary_password_file(stack, server.password)
        lines = _environment(server, database, password_file)
        _introduce(server, lines, say)
        if ready_file is not None:
            stack.callback(_remove, ready_file)
            write_private(ready_file, "".join(f"{line}\n" for line in lines))
        code = server.wait()
        say(f"the embedded server ended by itself (exit code {code})")
        words = server.last_words()
        if words:
            say(words)
        return 1


def _last_port(data: Path) -> int | None:
    """Return the port that the last server with this data folder had, None if that is unknown."""
    try:
        descriptor = os.open(data.expanduser() / PORT_FILE, os.O_RDONLY | os.O_NONBLOCK)  # it may be a named pipe
        try:
            text = os.read(descriptor, 6).strip()  # at most five digits and a newline
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError):  # RuntimeError if nobody knows the user's home
        return None
    return int(text) if text.isdigit() and 0 < int(text) < 1 << 16 else None


def _is_free(port: int) -> bool:
    """Return whether this user's server can listen on a port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # like the server: old connections do no harm
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _environment(server: Server, database: str, password_file: Path) -> list[str]:
    values = {
        "PICAS_HOST_URL": server.url,
        "PICAS_DATABASE": database,
        "PICAS_USERNAME": server.username,
        "PICAS_PASSWORD_FILE": str(password_file),
    }
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items()]


def _introduce(server: Server, lines: list[str], say: Say) -> None:
    kept = "in memory: it is lost when this ends" if server.data is None else f"in {server.data}"
    say("This is the embedded server of PiCaS, for trying out and testing, up to about ten thousand tokens.")
    say("For real work use Apache CouchDB.")
    say("")
    say(f"  address        {server.url} (this machine only)")
    say(f"  web interface  {server.web_url} (name and password: see below)")
    say(f"  data           {kept}")
    say("")
    say("To use it, copy these lines to another terminal:")
    say("")
    for line in lines:
        say(f"  {line}")
    say("")
    if server.data is not None:
        say("To keep these settings for later, run there: picas init")
    say("Ctrl-C stops it.")


def _temporary_password_file(stack: ExitStack, password: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="picas-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "password"
    write_private(path, password + "\n")
    return path


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


@contextmanager
def _stop_on_signals() -> Iterator[None]:
    """Raise `_Stopped` at the first signal and ignore further signals, so that they do not disturb the shutdown.

    Python allows signal handlers only in the main thread; in another thread, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    is_stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopped
        if not is_stopped:
            is_stopped = True
            raise _Stopped

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if (
            number != signal.SIGHUP or before[number] != signal.SIG_IGN
        ):  # started with nohup, the server must ignore SIGHUP
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
