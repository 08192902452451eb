"""HTTP: the session that the package `couchdb` sends its requests through. It rests on `http.client`.

Why not on `requests`:

- A pilot on a worker node of the Grid may have no other package than `couchdb`.
- `couchdb` sends its requests through a session of this kind.
- It is known whether a request was sent. A request that was not sent (there was no connection) is repeated, whatever
  it is. A request that only reads is also repeated if its answer was lost or late, or was a passing error of the
  server. A write is never repeated here once it was sent: `LostAnswer` says that its outcome has to be looked up.
  An answer that CouchDB has not given, such as a proxy's page, counts as lost too (see `answers`). `requests` repeats,
  or reports as one error, what differs in this.
- It takes no lock. A signal handler can interrupt any line, and then saves a token through the same session.
- It costs less: on a machine shared with the server, 16 pilots processed 250 tokens/s with it, and 122 with `requests`.
"""

from __future__ import annotations

import http.client
import io
import math
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from email.message import Message
from itertools import takewhile
from typing import Any, BinaryIO, Optional
from urllib.parse import urljoin, urlsplit

import couchdb.http
from couchdb import json as couchdb_json

from ..exceptions import ForeignAnswer, LostAnswer, Unreachable, UntrustedServer
from ..version import VERSION
from .answers import content_of, error_of, foreign, is_missing_stub, is_passing_status
from .connections import ConnectionPool, Timeouts, explain, is_hopeless, server_of

RETRY_PAUSES = (0.1, 0.5, 2.0)
"""Seconds to wait before each repetition."""
CONNECT_PATIENCE = 15.0
"""Seconds after which a request tries no further connection."""
MAX_RETRY_AFTER = 10.0
"""The longest wait, in seconds, that a server can ask for with Retry-After."""
BUFFERED_BYTES = 1 << 20
"""Size in bytes up to which a body that is not JSON is read at once too."""

USER_AGENT = f"picas/{VERSION}"

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_READING_POSTS = frozenset({"_find", "_explain", "_all_docs", "_bulk_get", "_changes", "_revs_diff", "_missing_revs"})
_LOST = (OSError, http.client.HTTPException)

Answer = tuple[int, Message, Optional[BinaryIO]]
Credentials = Optional[tuple[str, str]]


def may_repeat(method: str, url: str) -> bool:
    """Return whether a request only reads, so that repeating it changes nothing."""
    if method in ("GET", "HEAD"):
        return True
    path = urlsplit(url).path
    return method == "POST" and (path.rpartition("/")[2] in _READING_POSTS or "/_view/" in path)


class _Body(couchdb.http.ResponseBody):  # type: ignore[misc]  # couchdb has no types
    """The body of an answer that the caller reads piece by piece."""

    conn: http.client.HTTPConnection | None

    def read(self, size: int | None = None) -> bytes:
        """Return the next bytes, or all remaining bytes if no size is given.

        :raises Unreachable: if the connection breaks
        """
        url = self.url  # the base class drops it at the end
        try:
            data: bytes = super().read(size)
            if size and len(data) < size and self.resp.length:  # with a size, `http.client` does not say so
                raise http.client.IncompleteRead(data, self.resp.length)
        except _LOST as error:
            self._drop()
            raise Unreachable(f"the answer from {server_of(url)} broke off ({explain(error)})") from error
        return data

    def close(self) -> None:
        """Return the connection to the pool, or close it if the body was not read to its end: a gigabyte may follow."""
        if self.conn and self.resp.isclosed():
            self._release_conn()
        else:
            self._drop()

    def _drop(self) -> None:
        self.resp.close()
        if self.conn:
            self.conn.close()
            self.conn = None


class Session(couchdb.http.Session):  # type: ignore[misc]  # couchdb has no types
    """The session that `couchdb` sends its requests through.

    :param verify: see `tls_context`
    :param timeouts: how long to wait for the server
    :param retry_pauses: seconds to wait before each repetition; empty to repeat nothing
    """

    def __init__(
        self,
        verify: bool | str = True,
        timeouts: Timeouts | None = None,
        retry_pauses: tuple[float, ...] = RETRY_PAUSES,
    ) -> None:
        self.verify = verify
        self.timeouts = timeouts or Timeouts()
        self.retry_pauses = retry_pauses
        self.is_cluster = False
        """Whether the server keeps several copies of a document, one of which may lag behind."""
        super().__init__(timeout=self.timeouts.read)
        self.user_agent = USER_AGENT
        self.connection_pool = ConnectionPool(self.timeouts, verify)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Wait so long for the server from the next request on; a signal handler may call this."""
        self.timeouts = self.connection_pool.timeouts = timeouts

    def disable_ssl_verification(self) -> None:
        """Trust any certificate from now on."""
        self.verify = False
        self.connection_pool = ConnectionPool(self.timeouts, False)

    def request(
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        credentials: Credentials = None,
        num_redirects: int = 0,
    ) -> Answer:
        """Send a request and return the status, the headers and the body, as `couchdb` expects them.

        Short bodies are read to their end here, so that a broken answer is noticed and the request repeated. The caller
        reads long bodies and endless feeds.

        :param body: None, text, bytes, a file, or anything that JSON can hold
        :raises Unreachable: if the request was not sent, or if it only reads and CouchDB has not answered it
        :raises LostAnswer: if the request writes, was sent, and CouchDB has not answered it, or only one node for all
        :raises couchdb.http.HTTPError: if the answer is an error (a subclass)
        :raises ValueError, TypeError: if JSON can't hold the body
        """
        return self._perform(method, url, body, headers, credentials, num_redirects, wants_json=False)

    def request_json(
        self, method: str, url: str, body: Any, headers: Mapping[str, str], credentials: Credentials
    ) -> tuple[int, Message, Any]:
        """Send a request as `request` does, and return the status, the headers and the JSON value in the answer."""
        return self._perform(method, url, body, headers, credentials, 0, wants_json=True)

    def _perform(
        self,
        method: str,
        url: str,
        body: Any,
        headers: Mapping[str, str] | None,
        credentials: Credentials,
        num_redirects: int,
        wants_json: bool,
    ) -> tuple[int, Message, Any]:
        method = method.upper()
        payload, all_headers = self._encode(body, headers, credentials)
        repeatable = may_repeat(method, url) and not hasattr(payload, "read")
        pauses = self._pauses(math.inf)
        while True:
            connection = self._get_connection(url)
            try:
                answer = self._exchange(connection, method, url, payload, all_headers, wants_json)
            except _LOST as error:
                connection.close()
                if not repeatable:
                    raise LostAnswer(f"no answer from {server_of(url)} to {method} ({explain(error)})") from error
                if not pause(pauses):
                    raise Unreachable(f"no answer from {server_of(url)} ({explain(error)})") from error
                continue
            except BaseException:
                connection.close()  # part of an answer may be on its way
                raise
            status, message, _ = answer
            target = urljoin(url, message["location"]) if status in _REDIRECTS and message["location"] else None
            may_follow = method in ("GET", "HEAD") and not wants_json  # CouchDB itself redirects no request for JSON
            if target and may_follow and num_redirects < self.max_redirects:
                if urlsplit(target)[:2] != urlsplit(url)[:2]:
                    credentials = None  # another server must not see the password
                return self.request(method, target, None, headers, credentials, num_redirects + 1)
            refused = status == 429  # the server has not processed the request
            worth_repeating = refused or (repeatable and is_passing_status(status))
            if worth_repeating and not hasattr(payload, "read") and pause(pauses, message["retry-after"]):
                continue
            try:
                return _judge(method, url, answer, target, wants_json)
            except ForeignAnswer:
                if not (repeatable and pause(pauses)):
                    raise
            except couchdb.http.PreconditionFailed as error:
                if not (self.is_cluster and is_missing_stub(error)):
                    raise
                # The documents of the same request may be in other copies.
                raise LostAnswer(f"a node of the cluster at {server_of(url)} lags behind") from error

    def _encode(
        self, body: Any, headers: Mapping[str, str] | None, credentials: Credentials
    ) -> tuple[Any, dict[str, str]]:
        """Return the body in the form in which it is sent, and all headers."""
        result = {"Accept": "application/json", "User-Agent": self.user_agent, **(headers or {})}
        if isinstance(body, str):
            body = body.encode("utf-8")
        elif body is not None and not isinstance(body, bytes) and not hasattr(body, "read"):
            body = couchdb_json.encode(body).encode("utf-8")
            result.setdefault("Content-Type", "application/json")
        if body is None or isinstance(body, bytes):
            result.setdefault("Content-Length", str(len(body or b"")))
        authorization = couchdb.http.basic_auth(credentials)
        if authorization:
            result["Authorization"] = authorization.decode("ascii")
        return body, result

    def _get_connection(self, url: str) -> http.client.HTTPConnection:
        """Return an open connection, after several tries if necessary: nothing was sent yet."""
        pauses = self._pauses(CONNECT_PATIENCE)
        while True:
            try:
                connection: http.client.HTTPConnection = self.connection_pool.get(url)
                return connection
            except ssl.SSLCertVerificationError as error:
                raise UntrustedServer(
                    f"the certificate of {server_of(url)} is not trusted ({error.verify_message})"
                ) from error
            except OSError as error:
                if is_hopeless(error) or not pause(pauses):
                    raise Unreachable(f"can't reach {server_of(url)} ({explain(error)})") from error

    def _pauses(self, patience: float) -> Iterator[float]:
        """Return the pauses before the repetitions of a request; none once a time in seconds, from now, is over."""
        give_up = time.monotonic() + min(patience, self.timeouts.patience)
        return takewhile(lambda _: time.monotonic() <= give_up, self.retry_pauses)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        url: str,
        payload: Any,
        headers: dict[str, str],
        wants_json: bool,
    ) -> Answer:
        """Send one request and read its answer; JSON that is wanted is read to its end."""
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        refusal: OSError | None = None
        try:
            connection.request(method, path, body=payload, headers=headers, encode_chunked=hasattr(payload, "read"))
        except (BrokenPipeError, ConnectionResetError) as error:
            refusal = error  # a server that refuses a large body answers early and closes: its answer says why
        response = connection.getresponse()
        if refusal and response.status < 400:
            raise refusal
        is_json = wants_json and "json" in response.msg.get("content-type", "")
        is_short = response.length is not None and response.length <= BUFFERED_BYTES
        if response.status >= 300 or method == "HEAD" or is_short or is_json:
            data: Any = io.BytesIO(response.read())
            if response.will_close or refusal:
                connection.close()
            else:
                self.connection_pool.release(url, connection)
        else:
            data = _Body(response, self.connection_pool, url, connection)
        return response.status, response.msg, data


class Resource(couchdb.http.Resource):  # type: ignore[misc]  # couchdb has no types
    """A resource as `couchdb` uses it. Where it wants JSON, any other answer counts as none."""

    def _request_json(
        self, method: str, path: Any = None, body: Any = None, headers: Mapping[str, str] | None = None, **params: Any
    ) -> tuple[int, Message, Any]:
        parts = [] if path is None else path if isinstance(path, list) else [path]
        url = couchdb.http.urljoin(self.url, *parts, **params)
        answer: tuple[int, Message, Any] = self.session.request_json(
            method, url, body, {**self.headers, **(headers or {})}, self.credentials
        )
        return answer


def _judge(method: str, url: str, answer: Answer, target: str | None, wants_json: bool) -> tuple[int, Message, Any]:
    """Return an answer, with the JSON value in it if one is wanted.

    :param target: where the server redirects to
    :raises couchdb.http.HTTPError: if the answer is an error
    :raises ForeignAnswer, LostAnswer: if CouchDB has not given it
    """
    status, message, data = answer
    kind = str(message.get("content-type", ""))
    if status >= 400:
        error = error_of(status, data.read() if data else b"", has_body=method != "HEAD")
        if error is not None:
            raise error
    elif status < 300:
        if not wants_json:
            return answer
        try:
            return status, message, content_of(method, url, kind, data)
        except ValueError:
            if data is not None:
                data.close()
    detail = kind.partition(";")[0] if target is None else f"it redirects to {server_of(target)}"
    raise foreign(server_of(url), status, detail, not may_repeat(method, url))


def pause(pauses: Iterator[float], retry_after: str | None = None) -> bool:
    """Wait before the next try; return False if there is none left.

    :param pauses: the seconds to wait each time; up to 50 % is added at random so that pilots do not retry in step
    :param retry_after: the seconds that the server asks for, if it does
    """
    seconds = next(pauses, None)
    if seconds is None:
        return False
    if retry_after and retry_after.isdigit():
        seconds = min(max(seconds, float(retry_after)), MAX_RETRY_AFTER)
    time.sleep(seconds * random.uniform(1.0, 1.5))
    return True
