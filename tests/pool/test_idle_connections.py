"""A NAT, a firewall or a proxy drops idle connections without a word: no result and no stop waits for one of them."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable
from urllib.parse import urlsplit

import pytest
from support.faults import HANG, Double, FaultProxy, Reply
from support.places import Location
from support.workers import Worker, signal_after, wait_for

from picas import CouchDB, Task
from picas.couch import connections
from picas.couch.connections import ConnectionPool, Timeouts
from picas.couch.transport import Session
from picas.exceptions import PilotStopped
from picas.views import count_states

IDLE = 0.1


class Nat:
    """A TCP relay to a server that forgets connections: no byte passes any more, and neither end is told."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._known: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        """Forget the connections that there are."""
        self._known = set()

    def close(self) -> None:
        self._listener.close()
        for end in self._sockets:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._sockets += [near, far]
            self._known |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if source in self._known:
                    sink.sendall(data)
            if source in self._known:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def nat(location: Location) -> Iterator[Nat]:
    nat = Nat(location.url)
    yield nat
    nat.close()


@pytest.fixture
def short_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_IDLE", IDLE)


@pytest.mark.usefixtures("quick", "nothing_left", "short_idle")
def test_a_result_does_not_wait_for_a_connection_that_was_dropped(
    client: CouchDB, push: Callable[..., list[Task]], nat: Nat, location: Location
) -> None:
    push(2)
    far = CouchDB(nat.url, client.database_name, location.username, location.password)

    def work(task: Task) -> None:
        time.sleep(2 * IDLE)
        nat.forget()
        Path("log.txt").write_text("the log")

    class Uploading(Worker):
        def cleanup_run(self) -> None:
            task = self.current_task
            if task is not None:
                time.sleep(2 * IDLE)
                nat.forget()
                far.put_attachment_file(task, "log.txt")

    began = time.monotonic()
    Uploading(far, work, claim_ahead=0).run()
    assert time.monotonic() - began < connections.READ_TIMEOUT / 2
    assert count_states(client)["done"] == 2
    assert all("log.txt" in client.get(f"token_{number}")["_attachments"] for number in range(2))


def test_connections_are_used_again_while_they_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    with Double(lambda request: Reply()) as double:
        session = Session()
        for _ in range(3):
            session.request("GET", double.url)
        assert double.connections == 1
        monkeypatch.setattr(connections, "MAX_IDLE", 0.0)
        time.sleep(0.01)
        session.request("GET", double.url)
        assert double.connections == 2


def test_the_system_checks_connections(location: Location) -> None:
    pool = ConnectionPool(Timeouts(), True)
    connection = pool.get(location.url)
    assert connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
    if hasattr(socket, "TCP_KEEPIDLE"):
        assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
    connection.close()


def test_a_hurry_is_for_some_seconds_and_ends(client: CouchDB) -> None:
    session = client.server.resource.session
    client.hurry()
    hurried = session.timeouts
    assert hurried.connect + 2 * hurried.read + hurried.patience <= 30  # Slurm kills after so long
    assert session.connection_pool.timeouts == hurried
    client.hurry(False)
    assert session.connection_pool.timeouts == session.timeouts == Timeouts()


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.usefixtures("quick", "nothing_left")
def test_a_pilot_that_is_stopped_does_not_wait_long_for_a_silent_server(
    client: CouchDB,
    push: Callable[..., list[Task]],
    location: Location,
    through: Callable[..., CouchDB],
    spool: Callable[[], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    slots: int,
) -> None:
    push(slots)
    working = threading.Event()
    tokens: list[str] = []
    monkeypatch.setattr(Timeouts, "in_a_hurry", lambda self: Timeouts(0.2, 0.2, 0.1))
    with FaultProxy(location.url) as proxy:

        def work(task: Task) -> None:
            task["exit_code"] = 0
            tokens.append(task.id)
            wait_for(lambda: len(tokens) == slots)
            for method in ("GET", "PUT", "POST", "DELETE"):
                proxy.fail(method, "/", HANG, times=10**6)
            working.set()
            wait_for(lambda: False)

        pilot = Worker(through(proxy), work, grace=1, lease=1000)
        began = time.monotonic()
        with signal_after(0.05, signal.SIGTERM, working.is_set), pytest.raises(PilotStopped):
            pilot.run(slots=slots)
        assert time.monotonic() - began < connections.READ_TIMEOUT / 2
    assert len(spool()) == slots
    assert client.get("token_0")["claim"]["pilot"] in {row.id for row in client.all_docs()}
