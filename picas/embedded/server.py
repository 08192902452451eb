"""The embedded server as a Python object."""

from __future__ import annotations

import atexit
import base64
import collections
import contextlib
import fcntl
import http.client
import json
import logging
import os
import secrets
import select
import signal
import subprocess
import threading
import time
import urllib.parse
import weakref
from pathlib import Path
from types import TracebackType
from typing import IO

from picas.embedded.errors import EmbeddedServerError, FolderInUseError, PortInUseError, StartError
from picas.embedded.node import HERE, Progress, clean_environment, find_node, install_packages

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"  # never another address: the connection is not encrypted
START_SECONDS = 60.0  # a cold file system is slow
STOP_SECONDS = 6.0  # the server ends within 4 s
MAX_CONNECTIONS = 1000
STALL_SECONDS = 30.0  # the server closes a connection whose request is incomplete for this time
FOLDER_SECONDS = 5.0  # a server whose parent has died releases its folder within this time
LAST_LINES = 20  # of the server's log, for error messages
PASSWORD_BYTES = 24


def _log_progress(line: str) -> None:
    logger.info("%s", line)


class Server:
    """A small CouchDB-compatible server for a first run and for tests, with up to about ten thousand tokens.

    It listens only on 127.0.0.1, requires a name and a password, and ends when this process ends for any reason.

        with Server() as server:
            client = CouchDB(server.url, "picas", server.username, server.password, create=True)

    Attributes: `url` (without name and password), `web_url` (CouchDB's web interface), `port`, `username`, `password`,
    `pid` (of Node.js; None if the server does not run), `data` and `password_file` (None if the data is in memory).
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | None = None,
        *,
        port: int = 0,
        username: str = "picas",
        password: str | None = None,
        progress: Progress = _log_progress,
    ) -> None:
        """Prepare a server; `start()` or `with` starts it.

        :param data: the folder for the databases, created if it does not exist; None keeps them in memory
        :param port: the port to listen on; 0 takes any free port
        :param username: the only name that the server accepts
        :param password: its password; None takes the password of the data folder, else a random one. The data folder
            keeps the password in the file `password` (mode 0600)
        :param progress: called with a line of text before and after steps that take long, such as the installation at
            the first start
        :raises ValueError: if the name or the password is empty or has invalid characters
        """
        self.data = None if data is None else Path(data).expanduser().absolute()
        self.username = _checked("username", username, ":")
        self.port = port
        self.password_file = None if self.data is None else self.data / "password"
        self._asked_port = port
        self._password = None if password is None else _checked("password", password)
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started the server; only it may stop the server
        self._folder_lock: IO[str] | None = None
        self._log: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self._log_reader: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The server's address, without name and password."""
        return f"http://{HOST}:{self.port}"

    @property
    def web_url(self) -> str:
        """The address of the web interface."""
        return f"{self.url}/_utils/"

    @property
    def password(self) -> str:
        """The password. A random one is created at the first start; before that, this raises EmbeddedServerError."""
        if self._password is None:
            raise EmbeddedServerError("the server has no password yet: start it first")
        return self._password

    @property
    def pid(self) -> int | None:
        """The process id of Node.js, None if the server is not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def __repr__(self) -> str:
        where = "in memory" if self.data is None else f"data={str(self.data)!r}"
        return f"<Server {self.url} {where} {'stopped' if self.pid is None else 'running'}>"

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Server:
        """Start the server and return when it is ready. A running server is left as it is.

        :returns: this object
        :raises NodeMissingError: if Node.js or npm is missing
        :raises InstallError: if the packages can't be installed
        :raises FolderInUseError: if another server uses the data folder
        :raises PortInUseError: if another program uses the port
        :raises StartError: if the server does not start for another reason
        """
        if self.pid is not None:
            return self
        self.stop()
        node = find_node()
        packages = install_packages(node, self._progress)
        try:
            self._take_folder()
            self._choose_password()
            self._launch(node.binary, packages)
        except OSError as exc:
            self.stop()
            raise StartError(f"the embedded server can't start: {exc}") from exc
        except BaseException:
            self.stop()
            raise
        return self

    def poll(self) -> int | None:
        """Return the exit code of the server if it has ended, None if it is running or was never started."""
        return self._process.poll() if self._process else None

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the server ends, at most `timeout` seconds.

        :returns: its exit code, None if it is still running or was never started
        """
        if self._process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout)
        return None

    def last_words(self) -> str:
        """Return the last lines that the server logged."""
        if self._log_reader is not None and self.pid is None:
            self._log_reader.join(1.0)
        return "\n".join(self._log)

    def stop(self) -> None:
        """Stop the server and wait until it has ended, at most about 10 s.

        Nothing happens if it is not running, or in a fork of the process that started it.
        """
        process = self._process
        if process is not None and self._owner != os.getpid():
            return
        atexit.unregister(self.stop)
        if process is not None:
            _end(process)
        if self._log_reader is not None:
            self._log_reader.join(1.0)
        if self._folder_lock is not None:
            self._folder_lock.close()
            self._folder_lock = None

    def create_database(self, name: str) -> bool:
        """Create a database if it does not exist.

        :returns: whether it was created
        :raises EmbeddedServerError: if that fails
        """
        secret = base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")
        connection = http.client.HTTPConnection(HOST, self.port, timeout=START_SECONDS)
        try:
            path = "/" + urllib.parse.quote(name, safe="")
            connection.request("PUT", path, headers={"Authorization": f"Basic {secret}"})
            answer = connection.getresponse()
            body = answer.read().decode("utf-8", "replace").strip()
        except (OSError, http.client.HTTPException) as exc:
            raise EmbeddedServerError(f"the embedded server does not answer: {exc}") from exc
        finally:
            connection.close()
        if answer.status not in (201, 412):
            raise EmbeddedServerError(f"the database {name} can't be created: {body}")
        return answer.status == 201

    def _take_folder(self) -> None:
        """Lock the data folder. Node.js inherits the lock, so the folder is locked until both processes have ended."""
        if self.data is None:
            return
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (self.data / "lock").open("a+", encoding="ascii")
        end = time.monotonic() + FOLDER_SECONDS
        while not _try_lock(lock):
            lock.seek(0)
            holder = lock.read().strip()
            if _is_alive(holder) or time.monotonic() > end:
                lock.close()
                raise FolderInUseError(f"the data folder {self.data} is in use by another server (process {holder})")
            time.sleep(0.1)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._folder_lock = lock

    def _choose_password(self) -> None:
        if self.password_file is None:
            self._password = self._password or secrets.token_urlsafe(PASSWORD_BYTES)
            return
        kept = ""
        with contextlib.suppress(FileNotFoundError):
            kept = self.password_file.read_text(encoding="utf-8").strip()
        self._password = self._password or kept or secrets.token_urlsafe(PASSWORD_BYTES)
        if self._password == kept:
            self.password_file.chmod(0o600)
        else:
            write_private(self.password_file, self._password + "\n")

    def _launch(self, node: Path, packages: Path) -> None:
        databases = None if self.data is None else self.data / "databases"
        config = {
            "modules": str(packages),
            "folder": None if databases is None else str(databases),
            "host": HOST,
            "port": self._asked_port,
            "username": self.username,
            "password": self.password,
            "connections": MAX_CONNECTIONS,
            "stall": round(STALL_SECONDS * 1000),
        }
        process = subprocess.Popen(
            [str(node), "--no-deprecation", str(HERE / "server.js")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.data or "/",
            env=clean_environment(),
            pass_fds=() if self._folder_lock is None else (self._folder_lock.fileno(),),
            start_new_session=True,  # a Ctrl-C at the terminal must reach only this process
        )
        self._process, self._owner = process, os.getpid()
        _running.add(self)
        atexit.register(self.stop)
        assert process.stdin
        assert process.stdout
        self._log.clear()
        self._log_reader = threading.Thread(
            target=self._read_log, args=(process,), name="picas-embedded-log", daemon=True
        )
        self._log_reader.start()
        with contextlib.suppress(BrokenPipeError):  # it ended immediately; its output says why
            process.stdin.write(json.dumps(config).encode() + b"\n")
            process.stdin.flush()
        self._read_answer(process, process.stdout)

    def _read_answer(self, process: subprocess.Popen[bytes], stdout: IO[bytes]) -> None:
        ready, _, _ = select.select([stdout], [], [], START_SECONDS)
        line = stdout.readline() if ready else b""
        stdout.close()
        try:
            answer = json.loads(line)
        except ValueError:
            answer = {}
        if "port" in answer:
            self.port = answer["port"]
            return
        if answer.get("error") == "EADDRINUSE":
            raise PortInUseError(f"port {self._asked_port} of {HOST} is in use by another program: choose another port")
        if answer:
            raise StartError(f"the embedded server can't start: {answer.get('message')}")
        if not ready:
            raise StartError(f"the embedded server did not start within {START_SECONDS:.0f} s")
        process.wait(STOP_SECONDS)
        words = self.last_words().splitlines()
        raise StartError(
            f"the embedded server ended immediately (exit code {process.poll()}): {words[-1] if words else ''}"
        )

    def _read_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr
        with process.stderr as stream:
            for line in stream:
                text = line.decode("utf-8", "replace").rstrip()
                self._log.append(text)
                logger.warning("node: %s", text)

    def _forget(self) -> None:
        """In a fork: release the pipe that keeps the server alive, so that the server ends with its real parent."""
        stdin = self._process.stdin if self._process else None
        if stdin is None or stdin.closed:
            return
        with contextlib.suppress(OSError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stdin.fileno(), inheritable=False)  # not closed: another file could get its number
            os.close(nothing)


def _checked(what: str, value: str, forbidden: str = "") -> str:
    if not value or value != value.strip() or not value.isprintable() or any(mark in value for mark in forbidden):
        raise ValueError(f"this {what} can't be used: it is empty or has invalid characters")
    return value


def write_private(path: Path, text: str) -> None:
    """Write a file atomically, readable only by its owner."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    try:
        fresh.replace(path)
    except OSError:  # a folder has this name
        fresh.unlink()
        raise


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        # Some network file systems have no locks. leveldb's lock on each database still protects the data.
        logger.debug("no lock on the data folder: %s", exc)
    return True


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End Node.js: close its stdin, then send signals."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None and process.poll() is None:
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS if number is None else 2.0)
            return


_running: weakref.WeakSet[Server] = weakref.WeakSet()


def _forget_all() -> None:
    for server in list(_running):
        server._forget()


os.register_at_fork(after_in_child=_forget_all)
