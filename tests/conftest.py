"""Fixtures that all tests share: a real server, empty databases, and faulty connections.

The server is the embedded one, or the CouchDB that PICAS_TEST_URL names (with credentials).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Callable
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from support.faults import FaultProxy
from support.places import EXAMPLES, Location
from support.tokens import make_token
from support.workers import Gate

from picas import CouchDB, Task
from picas.embedded import Server
from picas.executers import running
from picas.pilot.context import busy_threads
from picas.views import create_views

# The time that a machine takes for an example says nothing about the code.
settings.register_profile("picas", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("picas")

HERE = Path(__file__).resolve().parent

pytest_plugins = ("support.jobs", "support.certificates", "support.people", "support.browser")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the name of its folder, and let those that depend on real time run again once."""
    for item in items:
        item.add_marker(item.path.relative_to(HERE).parts[0])
        if item.get_closest_marker("timing"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def location() -> Iterator[Location]:
    """The server. Each worker of pytest-xdist starts its own embedded server, in memory."""
    given = os.environ.get("PICAS_TEST_URL")
    if given:
        parts = urlsplit(given)
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        yield Location(bare, unquote(parts.username or ""), unquote(parts.password or ""))
        return
    with Server(progress=lambda line: print(line, file=sys.stderr)) as server:
        yield Location(server.url, server.username, server.password)


@pytest.fixture
def is_couchdb() -> bool:
    """Whether the server is Apache CouchDB instead of the embedded one."""
    return bool(os.environ.get("PICAS_TEST_URL"))


@pytest.fixture
def client(location: Location) -> Iterator[CouchDB]:
    """A client of a new database with the views of Monitor; the database is deleted after the test."""
    name = f"picas_test_{uuid4().hex}"
    client = CouchDB(location.url, name, location.username, location.password, create=True)
    create_views(client)
    yield client
    del client.server[name]


@pytest.fixture
def gate(location: Location) -> Iterator[Gate]:
    """A relay to the server that can be closed and opened again."""
    with Gate(location.url) as gate:
        yield gate


@pytest.fixture
def far(gate: Gate, client: CouchDB, location: Location) -> CouchDB:
    """A client of the test's database through the gate, which fails at once while the gate is closed."""
    far = CouchDB(gate.url, client.db.name, location.username, location.password)
    far.server.resource.session.retry_pauses = ()
    return far


@pytest.fixture
def through(location: Location, client: CouchDB) -> Callable[..., CouchDB]:
    """Connect a client to the test's database through a proxy; the proxy forgets the requests for that."""

    def through(proxy: FaultProxy, retry_pauses: tuple[float, ...] = (0.0, 0.0), **options: float) -> CouchDB:
        made = CouchDB(proxy.url, client.db.name, location.username, location.password, **options)
        made.server.resource.session.retry_pauses = retry_pauses
        proxy.forget()
        return made

    return through


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the test's own folder, with short pauses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PICAS_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setattr("picas.pool.claims.EMPTY_PAUSE", 0.01)
    monkeypatch.setattr("picas.couch.writes.REPEAT_PAUSES", (0.0,))
    monkeypatch.setattr("picas.couch.outages.FIRST_PAUSE", 0.02)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Check that no child process and no actor is left running."""
    yield
    assert running() == []
    assert busy_threads == set()


@pytest.fixture
def spool(tmp_path: Path) -> Callable[[], list[Path]]:
    """Return a function that lists the files of results that could not be saved."""
    return lambda: sorted((tmp_path / "spool").glob("*"))


@pytest.fixture
def environment(location: Location, client: CouchDB, tmp_path: Path) -> dict[str, str]:
    """Environment variables that give a script the test's database and hide the user's own settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PICAS_")}
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return {
        **inherited,
        **location.environment(client.db.name),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME")
        or str(Path.home() / ".cache"),  # the embedded server's packages
        "NETRC": str(home / ".netrc"),
        "PICAS_SPOOL": str(tmp_path / "spool"),
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and the examples, in which the sandbox for the Grid can be built."""
    root = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__", "*.tar")
    shutil.copytree(EXAMPLES, root / "examples", ignore=ignored)
    shutil.copytree(EXAMPLES.parent / "picas", root / "picas", ignore=ignored)
    return root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a separate file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small file system")
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this system does not allow mounting a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def full_disk(small_disk: Path) -> Path:
    """A folder on a separate file system without any free space."""
    with contextlib.suppress(OSError), (small_disk / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return small_disk


@pytest.fixture
def push(client: CouchDB) -> Callable[..., list[Task]]:
    """Return a function that saves a number of free tokens, starting with token_0, and returns them."""

    def push(count: int, **fields: object) -> list[Task]:
        tokens = [Task(make_token(number, **fields)) for number in range(count)]
        assert all(client.save_documents(tokens))
        return tokens

    return push
