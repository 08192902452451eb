"""Helpers for tests of pilots: pilot processes, waiting for conditions, and a server that becomes unreachable."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Callable
from urllib.parse import urlsplit, urlunsplit

from picas import CouchDB, RunActor
from picas.processes.supervision import supervisors

PATIENCE = 30.0
"""Seconds until a test stops waiting for a condition."""

PRELUDE = """
import logging, os, signal, subprocess, sys, threading, time
from picas import *
from picas.executers import execute, run_command

logging.basicConfig(level=logging.INFO)

def connect(**options):
    names = ("PICAS_HOST_URL", "PICAS_DATABASE", "PICAS_USERNAME", "PICAS_PASSWORD")
    return CouchDB(*(os.environ[name] for name in names), **options)

def note(*words):
    with open("journal", "a") as journal:
        journal.write(" ".join(map(str, words)) + "\\n")

class Noting(RunActor):
    def prepare_env(self): note("prepare_env")
    def prepare_run(self): note("prepare_run")
    def process_task(self, task): note("process_task", task.id)
    def cleanup_run(self): note("cleanup_run")
    def cleanup_env(self): note("cleanup_env")

"""


class PilotProcess:
    """A script that runs a pilot in its own folder and notes its steps in the file `journal` there.

    :param folder: is created if it does not exist
    :param environment: environment variables of the process
    :param body: the script, which can use everything in PRELUDE
    :param options: further arguments of `Popen`
    """

    def __init__(self, folder: Path, environment: dict[str, str], body: str, **options: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "pilot_script.py"
        script.write_text(PRELUDE + body, encoding="utf-8")
        self.errors = folder / "stderr"
        with self.errors.open("wb") as errors:
            options = {"preexec_fn": _heed_signals, **options}
            options = {"cwd": folder, "env": environment, "stderr": errors, "stdin": subprocess.DEVNULL, **options}
            self.process = subprocess.Popen([sys.executable, str(script)], **options)

    @property
    def journal(self) -> list[str]:
        """The lines that the script has noted so far."""
        file = self.folder / "journal"
        return file.read_text().splitlines() if file.exists() else []

    def wait_for(self, start: str) -> str:
        """Wait for a line of the journal with this start, and return it."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [line for line in self.journal if line.startswith(start)]
            return bool(found) or self.process.poll() is not None

        wait_for(look)
        assert found, f"the pilot ended without {start!r}: {self.journal} {self.errors.read_text()}"
        return found[0]

    def number(self, start: str) -> int:
        """Wait for a line of the journal with this start, and return the number at its end."""
        return int(self.wait_for(start).split()[-1])

    def send(self, signum: int) -> None:
        """Send the pilot a signal."""
        self.process.send_signal(signum)

    def end(self) -> int:
        """Wait until the pilot ends and return its exit code."""
        return self.process.wait(PATIENCE)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send the pilot a signal, wait until it ends, and return its exit code."""
        self.send(signum)
        return self.end()

    def close(self) -> None:
        """Kill the pilot if it is still running."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Worker(RunActor):
    """Calls a function with each token, and notes the ids of the tokens."""

    def __init__(self, db: CouchDB, work: Callable[[Any], Any] = lambda task: None, **options: Any) -> None:
        super().__init__(db, **options)
        self.work = work
        self.processed: list[str] = []

    def process_task(self, task: Any) -> None:
        self.processed.append(task.id)
        self.work(task)


def _heed_signals() -> None:
    """Reset signals that the tests may have inherited as ignored, from nohup or from a shell's background job."""
    for signum in (signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, signal.SIG_DFL)


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until the condition returns something true, and return that.

    :raises AssertionError: if that takes longer than `seconds`
    """
    give_up = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < give_up, "the condition did not become true"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b") ")[2][:1] not in (b"Z", b"X")


def pid_in(name: str | Path) -> int:
    """Wait until a script has written its process id into a file, and return the id."""
    return int(wait_for(lambda: Path(name).exists() and Path(name).read_text().strip()))


def hopper(pause: float) -> str:
    """Return a script that ignores SIGTERM and continues in a new child, in another session, again and again.

    It ends by itself after a while, because one that a failed test leaves behind is hard to catch.

    :param pause: seconds between two hops
    """
    return f"""
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("hopping", "w").close()
end = time.monotonic() + {2 * PATIENCE}
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep({pause})
"""


@contextlib.contextmanager
def signal_after(seconds: float, signum: int, condition: Callable[[], Any] = lambda: True) -> Iterator[None]:
    """Send this process a signal some seconds after a condition has become true."""

    def send() -> None:
        wait_for(condition)
        time.sleep(seconds)
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@contextlib.contextmanager
def untraced_threads() -> Iterator[None]:
    """On Python 3.11, do not measure the coverage of threads that are started in the block.

    There, while an exception is pending for a thread that blocks in a system call, all traced threads block as well,
    including the one that would end the system call. So the supervisors of earlier tests, whose answers traced threads
    read, are not used in the block.
    """
    if sys.version_info[:2] != (3, 11):
        yield
        return
    while supervisors._free:
        supervisors._close(supervisors._free.pop())
    trace = threading.gettrace()
    threading.settrace(None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        threading.settrace(trace)  # type: ignore[arg-type]


def stop_this_pilot() -> None:
    """Stop the run of this process by a signal, and wait for that."""
    os.kill(os.getpid(), signal.SIGTERM)
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:  # a thread is interrupted between two instructions only
        time.sleep(0.01)


class Gate:
    """A TCP relay to a server. While it is closed, connections break and new ones are refused.

    :param url: the server; `Gate.url` is the URL of the relay
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f"127.0.0.1:{self._port}"))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._serve()

    def close(self) -> None:
        """Break all connections and refuse new ones."""
        # Closing alone is not enough: a thread that blocks in accept() would still get a connection.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs = []

    def open(self) -> None:
        """Accept connections again, on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._serve()

    @contextlib.contextmanager
    def babbling(self, answer: bytes) -> Iterator[None]:
        """Give this answer to each request instead of passing it on."""
        self.close()
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._thread = threading.Thread(target=_babble, args=(self._listener, answer), daemon=True)
        self._thread.start()
        try:
            yield
        finally:
            self.close()
            self.open()

    def _serve(self) -> None:
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near = listener.accept()[0]
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:  # the server itself is unreachable
                near.close()
                continue
            self._pairs.append((near, far))
            threading.Thread(target=_pass_on, args=(near, far), daemon=True).start()

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _babble(listener: socket.socket, answer: bytes) -> None:
    """Give the same answer to each request, until the listener is closed."""
    while True:
        try:
            connection = listener.accept()[0]
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.settimeout(1)
            connection.recv(1 << 20)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 20):  # what is left of the request; otherwise the answer would be lost
                pass


def _pass_on(near: socket.socket, far: socket.socket) -> None:
    """Relay bytes in both directions until one side closes its connection."""
    with near, far, contextlib.suppress(OSError):
        while True:
            for end in select.select([near, far], [], [])[0]:
                data = end.recv(65536)
                if not data:
                    return
                (far if end is near else near).sendall(data)
