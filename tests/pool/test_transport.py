"""The HTTP transport: timeouts, retries, connections, redirects and TLS, against servers that misbehave."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import couchdb
import pytest
from couchdb.http import (
    Forbidden,
    PreconditionFailed,
    ResourceConflict,
    ResourceNotFound,
    ServerError,
    Unauthorized,
)
from support.certificates import Certificate
from support.faults import CUT, HANG, RESET, Answer, Double, Reply, Request

from picas import CouchDB
from picas.couch import connections, transport
from picas.couch.connections import MAX_IDLE_CONNECTIONS, ConnectionPool, Timeouts, server_of, tls_context
from picas.couch.transport import Session, may_repeat
from picas.exceptions import ForeignAnswer, LostAnswer, PicasError, SettingsError, Unreachable, UntrustedServer

OK = Reply()
BUSY = Reply(503, b'{"error":"busy","reason":"later"}')
HALF = Reply(200, b'{"ok":true}', cut_after=5)
ME = ("me", "hunter2")


def in_turn(*answers: Answer) -> Callable[[Request], Answer]:
    """Return these responses one after the other, and then always the last one."""
    left = list(answers)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
def serve() -> Iterator[Callable[..., Double]]:
    with contextlib.ExitStack() as stack:
        yield lambda *answers, tls=None: stack.enter_context(Double(in_turn(*answers or (OK,)), tls))


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the transport would have slept; here it does not sleep."""
    naps: list[float] = []
    monkeypatch.setattr(transport.time, "sleep", naps.append)
    return naps


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def quick(**settings: Any) -> Session:
    return Session(**{"timeouts": Timeouts(5, 5), "retry_pauses": (0.0, 0.0), **settings})


# --- timeouts


def test_the_default_timeouts_are_ten_and_sixty_seconds() -> None:
    assert Timeouts() == Timeouts(connect=10.0, read=60.0)
    assert Session().timeouts == Timeouts(10.0, 60.0)


@pytest.mark.timing
@pytest.mark.parametrize(("method", "error"), [("GET", Unreachable), ("PUT", LostAnswer)])
def test_a_request_to_a_silent_server_times_out(silent: int, method: str, error: type[Exception]) -> None:
    session = quick(timeouts=Timeouts(connect=30, read=0.1), retry_pauses=())
    began = time.monotonic()
    with pytest.raises(error, match=rf"^no answer from http://127\.0\.0\.1:{silent}.*\(time-out\)$"):
        session.request(method, f"http://127.0.0.1:{silent}/db/a", credentials=ME)
    assert 0.1 <= time.monotonic() - began < 5


@pytest.mark.timing
def test_the_connect_timeout_covers_the_tls_handshake(silent: int) -> None:
    session = quick(timeouts=Timeouts(connect=0.1, read=30), retry_pauses=())
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"can't reach .*time-out"):
        session.request("PUT", f"https://127.0.0.1:{silent}/db/a")
    assert time.monotonic() - began < 5


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse where Linux lets one wait")
def test_a_connection_that_is_never_accepted_times_out() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # fill the queue of connections to be accepted
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        session = quick(timeouts=Timeouts(connect=0.1, read=30), retry_pauses=())
        with pytest.raises(Unreachable, match="time-out"):
            session.request("PUT", f"http://127.0.0.1:{listener.getsockname()[1]}/db/a")


@pytest.mark.timing
def test_a_slow_response_within_the_timeout_is_accepted(serve: Callable[..., Double]) -> None:
    double = serve()
    double.answer = lambda request: (time.sleep(0.1), OK)[1]
    assert quick(timeouts=Timeouts(connect=0.05, read=5)).request("GET", double.url)[0] == 200


# --- retries


@pytest.mark.parametrize("loss", [CUT, RESET, HALF, BUSY, Reply(500, b"{}"), Reply(502, b"<html>"), Reply(429, b"{}")])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/db/a"), ("POST", "/db/_find"), ("POST", "/db/_design/x/_view/y"), ("POST", "/db/_all_docs")],
)
def test_a_read_only_request_is_repeated(serve: Callable[..., Double], loss: Answer, method: str, path: str) -> None:
    double = serve(loss, loss, OK)
    status, _, data = quick().request(method, double.url + path, body={"x": 1} if method == "POST" else None)
    assert (status, data.read()) == (200, b'{"ok":true}')
    assert len(double.requests) == 3
    assert len({request.body for request in double.requests}) == 1


@pytest.mark.parametrize("loss", [CUT, RESET, HALF, HANG])
@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/db/a"), ("DELETE", "/db/a"), ("POST", "/db/_bulk_docs"), ("POST", "/db")]
)
def test_a_write_is_never_repeated_once_it_was_sent(
    serve: Callable[..., Double], loss: Answer, method: str, path: str
) -> None:
    double = serve(loss)
    with pytest.raises(LostAnswer, match=f"no answer from {double.url} to {method}"):
        quick(timeouts=Timeouts(5, 0.3 if loss == HANG else 5)).request(
            method, double.url + path, body={"x": 1}, credentials=ME
        )
    assert len(double.requests) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_write_is_not_repeated_after_a_temporary_error(serve: Callable[..., Double], status: int) -> None:
    double = serve(Reply(status, b'{"error":"busy","reason":"later"}'))
    with pytest.raises(ServerError) as caught:
        quick().request("PUT", f"{double.url}/db/a", body={})
    assert caught.value.args == ((status, ("busy", "later")),)
    assert len(double.requests) == 1


def test_a_write_that_the_server_did_not_process_is_repeated(serve: Callable[..., Double]) -> None:
    double = serve(Reply(429, b"{}"), Reply(201))
    assert quick().request("PUT", f"{double.url}/db/a", body={"x": 1})[0] == 201
    assert [request.body for request in double.requests] == [b'{"x": 1}'] * 2


def test_a_read_gives_up_after_a_few_tries(serve: Callable[..., Double]) -> None:
    for loss, error in ((CUT, Unreachable), (BUSY, ServerError)):
        double = serve(loss)
        with pytest.raises(error):
            quick().request("GET", f"{double.url}/db/a")
        assert len(double.requests) == 3


def test_pauses_grow_and_differ_between_pilots(serve: Callable[..., Double], naps: list[float]) -> None:
    with pytest.raises(Unreachable):
        Session().request("GET", serve(CUT).url)
    assert len(naps) == len(transport.RETRY_PAUSES)
    for nap, pause in zip(naps, transport.RETRY_PAUSES):
        assert pause <= nap <= 1.5 * pause
    assert naps != list(transport.RETRY_PAUSES)


@pytest.mark.parametrize(
    ("wish", "least", "most"), [("3", 3, 4.5), ("86400", 10, 15), ("0", 0.1, 0.15), ("Fri, 31 Dec 1999", 0.1, 0.15)]
)
def test_retry_after_is_respected_up_to_a_limit(
    serve: Callable[..., Double], naps: list[float], wish: str, least: float, most: float
) -> None:
    Session().request("GET", serve(Reply(503, b"{}", {"Retry-After": wish}), OK).url)
    assert len(naps) == 1
    assert least <= naps[0] <= most


def test_a_connection_is_tried_several_times_even_for_a_write(
    serve: Callable[..., Double], monkeypatch: pytest.MonkeyPatch
) -> None:
    double = serve(Reply(201))
    real = ConnectionPool._connect
    tries: list[str] = []

    def connect(self: ConnectionPool, scheme: str, netloc: str) -> Any:
        tries.append(netloc)
        return real(self, scheme, "127.0.0.1:1" if len(tries) < 3 else netloc)

    monkeypatch.setattr(ConnectionPool, "_connect", connect)
    assert quick().request("PUT", f"{double.url}/db/a", body={})[0] == 201
    assert (len(tries), len(double.requests)) == (3, 1)


def test_an_unknown_host_name_is_not_retried(naps: list[float]) -> None:
    with pytest.raises(Unreachable, match=r"^can't reach http://no\.such\.host\.invalid:5984"):
        Session().request("GET", "http://no.such.host.invalid:5984/")
    assert len(naps) <= len(transport.RETRY_PAUSES)


def test_the_time_to_connect_is_bounded(naps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(transport.time, "monotonic", lambda: next(clock))
    with pytest.raises(Unreachable):
        Session(retry_pauses=(0.0,) * 1000).request("GET", "http://127.0.0.1:1/")
    assert len(naps) < 5


@pytest.mark.parametrize(
    ("method", "url", "expected"),
    [
        ("GET", "http://h/db/_bulk_docs", True),
        ("HEAD", "http://h/db", True),
        ("POST", "http://h/db/_find?x=_bulk_docs", True),
        ("POST", "http://h/db/_bulk_docs?x=/_view/", False),
        ("POST", "http://h/db", False),
        ("PUT", "http://h/db/_find", False),
        ("DELETE", "http://h/db/_design/x/_view/y", False),
        ("COPY", "http://h/db/a", False),
    ],
)
def test_what_may_be_repeated(method: str, url: str, expected: bool) -> None:
    assert may_repeat(method, url) is expected


def test_a_file_as_a_body_is_sent_once_in_pieces(serve: Callable[..., Double]) -> None:
    double = serve(BUSY, OK)
    with pytest.raises(ServerError):
        quick().request("POST", f"{double.url}/db/_find", body=io.BytesIO(b"x" * 100_000))
    (request,) = double.requests
    assert request.body == b"x" * 100_000
    assert request.headers["transfer-encoding"] == "chunked"


def test_the_response_of_a_server_that_rejects_a_large_body_early() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                body = b'{"error":"too_large","reason":"8 MB at most"}'
                connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        thread = threading.Thread(target=refuse)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/db/a"
        with pytest.raises(ServerError, match="8 MB at most"):
            quick().request("PUT", url, body=b"x" * 50_000_000)
        thread.join()


# --- connections


@pytest.mark.parametrize("has_tls", [False, True])
def test_one_connection_serves_many_requests(
    serve: Callable[..., Double], certificate: Certificate, has_tls: bool
) -> None:
    not_found = Reply(404, b'{"error":"not_found","reason":"missing"}')
    text = Reply(200, b"x" * 3_000_000, {"Content-Type": "text/plain"})
    double = serve(OK, Reply(201), OK, text, not_found, OK, tls=certificate.context() if has_tls else None)
    session = quick(verify=certificate.path if has_tls else True)
    session.request("GET", double.url)
    session.request("PUT", double.url, body={"x": 1})
    session.request("HEAD", double.url)
    assert len(session.request("GET", double.url)[2].read()) == 3_000_000
    with pytest.raises(ResourceNotFound):
        session.request("GET", double.url)
    session.request("GET", double.url)
    assert (len(double.requests), double.connections) == (6, 1)


@pytest.mark.parametrize("has_tls", [False, True])
def test_a_connection_that_the_server_closed_meanwhile_is_noticed(
    serve: Callable[..., Double], certificate: Certificate, has_tls: bool
) -> None:
    double = serve(Reply(close=True), Reply(201), tls=certificate.context() if has_tls else None)
    session = quick(verify=certificate.path if has_tls else True)
    session.request("GET", double.url)
    (idle,) = session.connection_pool._idle.values()
    select.select([idle[0][0].sock], [], [], 5)  # until the close has arrived
    assert session.request("PUT", f"{double.url}/db/a", body={})[0] == 201
    assert (len(double.requests), double.connections) == (2, 2)


def test_a_connection_is_not_reused_after_connection_close(serve: Callable[..., Double]) -> None:
    double = serve(Reply(headers={"Connection": "close"}, close=True), OK)
    session = quick()
    session.request("GET", double.url)
    assert not any(session.connection_pool._idle.values())
    session.request("PUT", double.url, body={})
    assert double.connections == 2


def test_the_connection_of_an_unread_long_response_is_not_reused(serve: Callable[..., Double]) -> None:
    double = serve(Reply(200, b"x" * 30_000_000, {"Content-Type": "text/plain"}), OK)
    session = quick()
    _, _, data = session.request("GET", double.url)
    assert data.read(10) == b"x" * 10
    data.close()
    assert not any(session.connection_pool._idle.values())
    assert session.request("GET", double.url)[2].read() == b'{"ok":true}'
    assert double.connections == 2


def test_a_truncated_long_response(serve: Callable[..., Double]) -> None:
    double = serve(Reply(200, b"x" * 3_000_000, {"Content-Type": "text/plain"}, cut_after=2_000_000))
    _, _, data = quick().request("GET", double.url)
    with pytest.raises(Unreachable, match=f"^the answer from {double.url} broke off"):
        data.read()


def test_the_number_of_idle_connections_is_bounded() -> None:
    pool = ConnectionPool(Timeouts(), True)
    closed: list[int] = []

    class Idle:
        sock = None

        def close(self) -> None:
            closed.append(1)

    for _ in range(MAX_IDLE_CONNECTIONS + 3):
        pool.release("http://h", Idle())  # type: ignore[arg-type]
    assert len(closed) == 3
    pool.close()
    assert len(closed) == MAX_IDLE_CONNECTIONS + 3


def test_two_servers_do_not_share_connections(serve: Callable[..., Double]) -> None:
    first, second = serve(), serve()
    session = quick()
    for _ in range(2):
        session.request("GET", first.url)
        session.request("GET", second.url)
    assert (first.connections, second.connections) == (1, 1)
    assert (len(first.requests), len(second.requests)) == (2, 2)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_has_its_own_connections(serve: Callable[..., Double]) -> None:
    double = serve()
    session = quick()
    session.request("GET", double.url)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            session.request("GET", double.url)
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert double.connections == 2
    session.request("GET", double.url)
    assert (double.connections, len(double.requests)) == (2, 3)


def test_an_interrupted_request_leaves_no_partial_response_behind(
    serve: Callable[..., Double], monkeypatch: pytest.MonkeyPatch
) -> None:
    double = serve()
    session = quick()
    session.request("GET", double.url)
    monkeypatch.setattr(Session, "_exchange", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        session.request("GET", double.url)
    monkeypatch.undo()
    session.request("GET", double.url)
    assert double.connections == 2


def test_an_endless_feed_is_read_as_rows_arrive(client: CouchDB) -> None:
    client.save({"_id": "a"})
    seen = []
    for row in client.db.changes(feed="continuous", timeout=1000, since=0):
        seen.append(row["id"])
        if "b" in seen:
            break
        if "a" in seen:
            client.save({"_id": "b"})
    assert seen[-1] == "b"
    assert client.get("b").id == "b"


# --- requests and errors


def test_the_headers_of_a_request(serve: Callable[..., Double]) -> None:
    double = serve()
    session = quick()
    headers = {"X-Mine": "1"}
    session.request("put", f"{double.url}/db/a?rev=1-x", {"x": "\u20ac"}, headers, ME)
    session.request("POST", double.url, "\u20ac", headers)
    session.request("GET", double.url)
    first, second, third = double.requests
    assert (first.method, first.path, first.body) == ("PUT", "/db/a?rev=1-x", '{"x": "\u20ac"}'.encode())
    assert first.headers["content-type"] == first.headers["accept"] == "application/json"
    assert first.headers["user-agent"].startswith("picas/")
    assert first.headers["x-mine"] == "1"
    assert first.authorization == "Basic bWU6aHVudGVyMg=="
    assert (second.body, second.authorization) == ("\u20ac".encode(), None)
    assert (third.path, third.body) == ("/", b"")
    assert headers == {"X-Mine": "1"}


def test_proxies_and_netrc_of_the_environment_are_not_used(
    serve: Callable[..., Double], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    double = serve()
    assert quick().request("GET", double.url)[0] == 200
    assert [request.authorization for request in double.requests] == [None]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Unauthorized),
        (403, Forbidden),
        (404, ResourceNotFound),
        (409, ResourceConflict),
        (412, PreconditionFailed),
    ],
)
def test_an_error_raises_the_exception_that_scripts_expect(
    serve: Callable[..., Double], status: int, kind: type[Exception]
) -> None:
    double = serve(Reply(status, b'{"error":"short","reason":"long"}'))
    with pytest.raises(kind) as caught:
        quick().request("GET", double.url)
    assert caught.value.args == (("short", "long"),)
    assert len(double.requests) == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error":"short","reason":"long"}', ("short", "long")),
        (b"<html>\xff", "<html>\ufffd"),
        (b"[1]", "[1]"),
        (b"", ""),
        (b"x" * 5000, "x" * 1000),
    ],
)
def test_another_error_has_the_server_s_message(serve: Callable[..., Double], body: bytes, told: Any) -> None:
    with pytest.raises(ServerError) as caught:
        quick().request("GET", serve(Reply(413, body)).url)
    assert caught.value.args == ((413, told),)


def test_an_error_without_a_body(serve: Callable[..., Double]) -> None:
    with pytest.raises(ResourceNotFound):
        quick().request("HEAD", serve(Reply(404)).url)


@pytest.mark.parametrize("body", [float("nan"), {1, 2}, {"x": object()}])
def test_a_body_that_json_cannot_represent_is_not_sent(serve: Callable[..., Double], body: Any) -> None:
    double = serve()
    with pytest.raises((ValueError, TypeError)):
        quick().request("PUT", double.url, body)
    assert double.requests == []


def test_an_address_of_another_kind() -> None:
    with pytest.raises(ValueError, match="must begin with http"):
        quick().request("GET", "ftp://127.0.0.1/")


# --- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_on_the_same_server_keeps_the_password(serve: Callable[..., Double], status: int) -> None:
    double = serve(Reply(status, b"", {"Location": "/other?x=1"}), OK)
    assert quick().request("GET", f"{double.url}/db", credentials=ME)[0] == 200
    assert double.requests[1].path == "/other?x=1"
    assert double.requests[1].authorization == "Basic bWU6aHVudGVyMg=="


def test_a_redirect_to_another_server_drops_the_password(serve: Callable[..., Double]) -> None:
    other = serve()
    double = serve(Reply(302, b"", {"Location": f"{other.url}/x"}))
    quick().request("GET", double.url, credentials=ME)
    assert double.requests[0].authorization is not None
    assert [request.authorization for request in other.requests] == [None]


def test_the_number_of_redirects_is_bounded(serve: Callable[..., Double]) -> None:
    double = serve(Reply(302, b"", {"Location": "/again"}))
    with pytest.raises(ForeignAnswer, match="it redirects to"):
        quick(retry_pauses=()).request("GET", double.url)
    assert len(double.requests) < 10


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_a_write_follows_no_redirect(serve: Callable[..., Double], method: str) -> None:
    other = serve()
    double = serve(Reply(307, b"", {"Location": f"{other.url}/x"}))
    with pytest.raises(LostAnswer, match=rf"\(status 307, it redirects to {other.url}\)$"):
        quick().request(method, double.url, body={}, credentials=ME)
    assert (len(double.requests), len(other.requests)) == (1, 0)


# --- TLS


@pytest.fixture
def tls_server(serve: Callable[..., Double], certificate: Certificate) -> Double:
    return serve(Reply(200, b'{"db_name":"db"}'), tls=certificate.context())


def test_an_unknown_certificate_is_rejected_by_default(tls_server: Double, naps: list[float]) -> None:
    with pytest.raises(UntrustedServer, match=r"^the certificate of https://127\.0\.0\.1:\d+ is not trusted \(self"):
        CouchDB(tls_server.url, "db", *ME)
    with pytest.raises(UntrustedServer):
        Session().request("PUT", tls_server.url, credentials=ME)
    assert tls_server.requests == []
    assert naps == []


def test_any_certificate_is_accepted_without_verification(tls_server: Double) -> None:
    CouchDB(tls_server.url, "db", *ME, ssl_verification=False).copy()
    session = quick()
    session.disable_ssl_verification()
    assert session.request("GET", tls_server.url)[0] == 200
    assert all(request.authorization for request in tls_server.requests[:-1])


def test_a_bundle_of_certificates_is_trusted(tls_server: Double, certificate: Certificate) -> None:
    CouchDB(tls_server.url, "db", *ME, ssl_verification=certificate.path).copy()
    assert len(tls_server.requests) == 2


def test_the_path_of_a_bundle_counts_from_where_the_client_was_made(
    tls_server: Double, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(certificate.path)
    monkeypatch.chdir(path.parent)
    client = CouchDB(tls_server.url, "db", *ME, ssl_verification=path.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    client.copy()
    assert len(tls_server.requests) == 2


def test_a_bundle_is_trusted_only_for_its_servers(
    serve: Callable[..., Double], certificate: Certificate, tmp_path: Path
) -> None:
    for address in ("IP:127.0.0.1", "DNS:elsewhere.example.org"):
        folder = tmp_path / address.partition(":")[0]
        folder.mkdir()
        other = Certificate(folder, address)
        double = serve(tls=other.context())
        trusted = certificate.path if address.startswith("IP") else other.path
        with pytest.raises(UntrustedServer):
            quick(verify=trusted).request("GET", double.url)


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_an_invalid_bundle_is_named(tls_server: Double, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    for act in (
        lambda: tls_context(str(path)),
        lambda: CouchDB(tls_server.url, "db", *ME, ssl_verification=str(path)),
    ):
        with pytest.raises(SettingsError, match=f"can't read CA certificates from {path}"):
            act()


def test_a_folder_of_certificates(certificate: Certificate, tls_server: Double, tmp_path: Path) -> None:
    shutil.copy(certificate.path, tmp_path)
    hashed = subprocess.run(
        ["openssl", "x509", "-noout", "-hash", "-in", certificate.path], check=True, capture_output=True, text=True
    )
    shutil.copy(certificate.path, tmp_path / f"{hashed.stdout.strip()}.0")
    assert quick(verify=str(tmp_path)).request("GET", tls_server.url)[0] == 200


def test_a_node_without_requests_trusts_the_authorities_of_its_system(
    certificate: Certificate, tls_server: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python may look for them where another system has them."""
    monkeypatch.setitem(sys.modules, "requests.utils", None)
    monkeypatch.setattr(connections, "SYSTEM_BUNDLES", ("/nowhere/ca.pem", certificate.path))
    assert quick(verify=True).request("GET", tls_server.url)[0] == 200


def test_the_tls_settings() -> None:
    strict, open_minded = tls_context(True), tls_context(False)
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(strict.get_ca_certs()) > 0
    assert (open_minded.verify_mode, open_minded.check_hostname) == (ssl.CERT_NONE, False)


# --- secrets


def test_no_message_or_log_contains_the_password(
    serve: Callable[..., Double], caplog: pytest.LogCaptureFixture, naps: list[float]
) -> None:
    caplog.set_level(logging.DEBUG)
    user, secret = ME
    told: list[str] = []
    for answer in (CUT, RESET, HALF, BUSY, Reply(401, b"{}"), Reply(302, b"", {"Location": "/x"})):
        double = serve(answer)
        for url in (double.url, f"http://{user}:{secret}@{double.netloc}"):
            for method in ("GET", "PUT"):
                session = quick()
                try:
                    session.request(method, url + "/db", credentials=ME)
                except (PicasError, couchdb.http.HTTPError) as error:
                    told += [str(error), repr(error), repr(error.__cause__)]
                told.append(repr(session))
    assert len(told) > 20
    assert secret not in "\n".join(told)
    assert secret not in caplog.text


def test_the_shown_address_has_no_credentials() -> None:
    assert server_of("https://me:hunter2@h.example.org:6984/db/a?x=1") == "https://h.example.org:6984"
    assert server_of("http://h") == "http://h"
