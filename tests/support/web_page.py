"""`picas web` as people start it, and requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Callable
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from picas import CouchDB
from picas.views import create_views

from .places import command
from .workers import PATIENCE, wait_for

PILOT = """
import picas
from picas.actors import CommandActor

CommandActor(picas.connect(), heartbeat=0.2).run()
"""
"""A pilot that runs the programs of its tokens, and whose heartbeat is short."""


class Answer:
    """An answer of the page."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class WebPage:
    """The command `picas web`, running in a process of its own.

    :param environment: environment variables with the settings of the pool
    """

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            command("web", *arguments), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.link = self.process.stdout.readline().strip()
        assert self.link, f"picas web has not started: {self.process.communicate()[1]}"
        parts = urlsplit(self.link)
        self.base = f"{parts.scheme}://{parts.netloc}"
        self.netloc = parts.netloc
        self.port = parts.port
        self.token = parts.query.partition("=")[2]

    def ask(self, path: str, method: str = "GET", *, token: str | None = None, **headers: str) -> Answer:
        """Send a request as it is, and return the answer.

        :param token: the token to show; by default the right one, "" for none
        :param headers: further headers, with _ for -
        """
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token != "":
            given["Authorization"] = f"Bearer {token or self.token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.putrequest(method, path, skip_host="Host" in given)
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders()
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def json(self, name: str, **parameters: Any) -> Any:
        """Return the answer of `/api/<name>.json`."""
        answer = self.ask(f"/api/{name}.json?{urlencode(parameters, doseq=True)}")
        assert answer.status == 200, answer.text
        return answer.json

    @contextlib.contextmanager
    def stream(self, **parameters: Any) -> Iterator[Stream]:
        """Open a stream of events, as a page does."""
        stream = Stream(self, f"/api/events?{urlencode(parameters)}")
        try:
            yield stream
        finally:
            stream.close()

    def stop(self, signum: int = signal.SIGINT) -> tuple[int, str, str]:
        """Send a signal, and return the exit code, what was printed after the link, and the standard error."""
        self.process.send_signal(signum)
        return (self.process.wait(PATIENCE), *self.process.communicate(timeout=PATIENCE))

    def __enter__(self) -> WebPage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Stream:
    """The events that a page gets."""

    def __init__(self, page: WebPage, path: str) -> None:
        self.events: list[tuple[str, Any]] = []
        self.times: list[float] = []
        self.has_ended = False
        self._connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=PATIENCE)
        self._connection.request("GET", path, headers={"Authorization": f"Bearer {page.token}"})
        self.response = self._connection.getresponse()
        self._socket = self._connection.sock
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        name = ""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, AttributeError):
            for line in self.response:
                key, _, value = line.decode().rstrip("\n").partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    self.times.append(time.monotonic())
                    self.events.append((name, json.loads(value)))
        self.has_ended = True

    def of(self, name: str) -> list[Any]:
        """Return the events with a name that have come so far."""
        return [data for each, data in list(self.events) if each == name]

    def wait_for(self, name: str, condition: Any = lambda data: True, seconds: float = PATIENCE) -> Any:
        """Wait for an event that meets a condition, and return its data."""
        return wait_for(lambda: [data for data in self.of(name) if condition(data)], seconds)[0]

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        self._thread.join(PATIENCE)


@contextlib.contextmanager
def page_of_new_pool(location: Any, fill: Callable[[CouchDB], object]) -> Iterator[WebPage]:
    """Start the page of a pool that is there only for the time of the block.

    :param location: the server, see the fixture `location`
    :param fill: fills the pool
    """
    name = f"picas_test_{uuid4().hex}"
    client = CouchDB(location.url, name, location.username, location.password, create=True)
    create_views(client)
    fill(client)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PICAS_")}
    with WebPage({**inherited, **location.environment(name)}) as page:
        yield page
    del client.server[name]
