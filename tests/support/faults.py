"""Servers that misbehave on purpose: a double with programmed answers, and a faulty proxy for the real server."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Callable, Union
from urllib.parse import urlsplit

CUT = "close the connection without an answer"
RESET = "reset the connection without an answer"
HANG = "never answer"


@dataclass(frozen=True)
class Request:
    """A request as the server received it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


@dataclass(frozen=True)
class Reply:
    """An answer; the connection breaks after `cut_after` bytes of the body."""

    status: int = 200
    body: bytes = b'{"ok":true}'
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    close: bool = False
    """Whether the connection is closed afterwards, without a header that announces it."""


Answer = Union[Reply, str]


def pending(count: int) -> Reply:
    """Return what CouchDB says of a design document whose views do not know so many changes yet."""
    return Reply(body=json.dumps({"view_index": {"updates_pending": {"minimum": count}}}).encode())


class Double:
    """A server on 127.0.0.1 that answers with the result of a function and records the requests."""

    def __init__(self, answer: Callable[[Request], Answer], tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.connections = 0
        self.stopped = threading.Event()
        double = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                double.connections += 1
                self.number = double.connections

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle()

            def respond(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, read_body(self.rfile, headers), self.number)
                double.requests.append(request)
                double.send(self, double.answer(request))

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = respond  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # tests disconnect on purpose

            def finish_request(self, request: Any, client_address: Any) -> None:
                if tls is not None:
                    request = tls.wrap_socket(request, server_side=True)
                super().finish_request(request, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self.netloc = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.netloc}"

    def send(self, handler: http.server.BaseHTTPRequestHandler, answer: Answer) -> None:
        if not isinstance(answer, Reply):
            handler.close_connection = True
            if answer == HANG:
                self.stopped.wait()
            if answer == RESET:  # with a linger time of 0, closing resets the connection
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        handler.send_response(answer.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        body = b"" if handler.command == "HEAD" else answer.body
        handler.wfile.write(body if answer.cut_after is None else body[: answer.cut_after])
        handler.close_connection = answer.close or answer.cut_after is not None

    def __enter__(self) -> Double:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()


def read_body(stream: Any, headers: Mapping[str, str]) -> bytes:
    """Return the body of a request, also of a chunked one."""
    if headers.get("transfer-encoding") != "chunked":
        return bytes(stream.read(int(headers.get("content-length", 0))))
    parts = []
    while True:
        size = int(stream.readline(), 16)
        parts.append(stream.read(size))
        stream.readline()
        if size == 0:
            return b"".join(parts)


@dataclass
class Fault:
    """What goes wrong with the next requests of one kind.

    With `after`, the real server applies the request first; `meanwhile` is called before the answer.
    """

    method: str
    path: str
    answer: Answer
    after: bool
    times: int
    meanwhile: Callable[[], Any]


class FaultProxy(Double):
    """A proxy for the real server. It forwards every request for which `fail` has set up no fault."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self._pass_on, tls)
        self._upstream = urlsplit(url).netloc
        self._faults: list[Fault] = []

    def fail(
        self,
        method: str,
        path: str,
        answer: Answer,
        *,
        after: bool = False,
        times: int = 1,
        meanwhile: Callable[[], Any] = lambda: None,
    ) -> None:
        """Give a wrong answer to the next requests whose path contains `path`.

        :param answer: a reply, CUT, RESET or HANG
        :param after: whether the real server applies the request first
        :param times: number of requests that fail
        :param meanwhile: is called before the answer
        """
        self._faults.append(Fault(method, path, answer, after, times, meanwhile))

    def forget(self) -> None:
        """Forget the recorded requests."""
        self.requests.clear()

    def count(self, method: str, path: str = "") -> int:
        """Return the number of recorded requests of one kind."""
        return sum(request.method == method and path in request.path for request in self.requests)

    def _pass_on(self, request: Request) -> Answer:
        for fault in self._faults:
            if fault.times > 0 and fault.method == request.method and fault.path in request.path:
                fault.times -= 1
                if fault.after:
                    self._forward(request)
                fault.meanwhile()
                return fault.answer
        return self._forward(request)

    def _forward(self, request: Request) -> Reply:
        connection = http.client.HTTPConnection(self._upstream, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name != "transfer-encoding"}
            headers["content-length"] = str(len(request.body))
            connection.request(request.method, request.path, request.body, headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        kept = ("content-type", "content-encoding", "location")
        return Reply(
            answer.status, body, {name.title(): answer.headers[name] for name in kept if name in answer.headers}
        )
