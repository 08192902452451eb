"""The feed of changes of a database, read by long polling."""

from __future__ import annotations

import contextlib
import errno
import http.client
import random
import socket
from collections.abc import Mapping
from typing import Any

import couchdb.http

from .connections import ConnectionPool
from .transport import Resource, Session

POLL = 55.0
"""Seconds that the server may wait before it answers that nothing has changed (its own limit is 60)."""


class OneConnection(ConnectionPool):
    """A pool that hands out one connection at a time, which another thread can break off."""

    _taken: http.client.HTTPConnection | None = None
    _is_broken_off = False

    def get(self, url: str) -> http.client.HTTPConnection:
        """See `ConnectionPool.get`.

        :raises ConnectionAbortedError: after `break_off`
        """
        self._taken = connection = super().get(url)
        if self._is_broken_off:  # `break_off` may have run before `_taken` was set
            connection.close()
            raise ConnectionAbortedError(errno.ECONNABORTED, "the feed was broken off")
        return connection

    def break_off(self) -> None:
        """End the current request, and allow no other."""
        self._is_broken_off = True
        connection = self._taken
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)


class ChangesFeed:
    """A database's feed of changes, on a connection of its own. A request that fails is not repeated.

    :param database: the database's resource, whose user, TLS settings and time-outs the feed takes over
    """

    def __init__(self, database: couchdb.http.Resource) -> None:
        used = database.session
        session = Session(used.verify, used.timeouts, retry_pauses=())
        session.connection_pool = self._connections = OneConnection(used.timeouts, used.verify)
        self._resource = Resource(database.url, session)
        self._resource.credentials = database.credentials
        self._longest_poll = min(POLL, 0.9 * used.timeouts.read)

    def last_seq(self) -> Any:
        """Return the sequence number of the latest change.

        :raises PicasError, couchdb.http.HTTPError: if the feed does not work
        """
        return self._resource.get_json("_changes", since="now", limit=1)[2]["last_seq"]

    def poll(self, since: Any, selector: Mapping[str, Any], limit: int) -> tuple[set[tuple[str, str]], Any]:
        """Wait until documents change, for `POLL` seconds at most.

        :param since: the sequence number after which changes count
        :param selector: the documents that count, as CouchDB's Mango selector
        :param limit: the most changes to return
        :returns: id and revision of each document that has changed, and the sequence number up to which they are known
        :raises PicasError, couchdb.http.HTTPError: if the feed does not work, or was broken off
        :raises LookupError, TypeError, ValueError: if something other than the database answers
        """
        _, _, answer = self._resource.post_json(
            "_changes",
            body={"selector": selector},
            filter="_selector",
            feed="longpoll",
            since=since,
            timeout=int(1000 * self._longest_poll * random.uniform(0.75, 1)),
            limit=limit,
        )
        return {(row["id"], row["changes"][0]["rev"]) for row in answer["results"]}, answer["last_seq"]

    def break_off(self) -> None:
        """End the current request, from any thread, and allow no other."""
        self._connections.break_off()

    def close(self) -> None:
        """Close the idle connection."""
        self._connections.close()
