"""The measured server: its nodes, its request counters, and databases that are deleted afterwards."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import requests

from picas import CouchDB
from picas.couch.outages import wait_out
from picas.generators import TokenGenerator
from picas.pushes import CHUNK
from picas.util import split_credentials
from picas.views import create_views

TIMEOUT = 60.0
"""Seconds without a byte until a request of the benchmark itself fails."""
INDEX_TIMEOUT = 7200.0
"""Seconds that the server may take to index all tokens."""


@dataclass(frozen=True)
class Node:
    """Address and credentials of one node of the server."""

    url: str
    username: str
    password: str = field(repr=False)

    @classmethod
    def from_url(cls, text: str) -> Node:
        """Return the node at a URL that contains a name and a password."""
        return cls(*split_credentials(text))

    def settings(self, database: str) -> dict[str, str]:
        """Return the arguments that connect a client of any picas to a database."""
        return {"url": self.url, "db": database, "username": self.username, "password": self.password}

    def client(self, database: str, **options: Any) -> CouchDB:
        """Return a client of a database; options are further arguments of `CouchDB`."""
        return CouchDB(**self.settings(database), **options)

    def get(self, path: str, **params: str) -> Any:
        """Return the JSON at a path of the server.

        :raises requests.HTTPError: if the server answers with an error
        """
        answer = requests.get(f"{self.url}/{path}", params=params, auth=(self.username, self.password), timeout=TIMEOUT)
        answer.raise_for_status()
        return answer.json()

    def connection(self) -> http.client.HTTPConnection:
        """Return an open connection that is kept alive and has TCP_NODELAY (http.client sets it itself)."""
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
        connection.connect()
        return connection

    def headers(self) -> dict[str, str]:
        """Return the headers of a JSON request on a raw connection."""
        secret = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {secret}", "Content-Type": "application/json"}


@dataclass(frozen=True)
class Counts:
    """Number of HTTP requests to a server, of those to `_bulk_docs`, and of those answered with 202."""

    requests: int
    bulk: int
    accepted: int

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(self.requests - earlier.requests, self.bulk - earlier.bulk, self.accepted - earlier.accepted)


def read_counts(nodes: list[Node]) -> Counts | None:
    """Return the counts since the server's start, summed over the nodes; None if the server does not count.

    A node also counts the reading, so a difference of two readings contains one extra request per node.
    """
    requests_seen = bulk = accepted = 0
    for node in nodes:
        try:
            # Releases before 3.4 update their statistics every ten seconds, or on flush=true.
            stats = node.get("_node/_local/_stats/couchdb", flush="true")
        except (requests.HTTPError, ValueError):  # ValueError: not JSON
            return None
        if not isinstance(stats, dict) or "httpd" not in stats:
            return None
        requests_seen += stats["httpd"]["requests"]["value"]
        bulk += stats["httpd"]["bulk_requests"]["value"]
        accepted += stats["httpd_status_codes"]["202"]["value"]
    return Counts(requests_seen, bulk, accepted)


def counts_since(before: Counts | None, nodes: list[Node], own: int = 0) -> Counts | None:
    """Return the counts since an earlier reading, without the benchmark's own requests.

    :param before: the earlier reading
    :param nodes: the nodes of that reading
    :param own: number of requests by the benchmark since then, apart from the readings
    """
    after = read_counts(nodes)
    if before is None or after is None:
        return None
    return after - before - Counts(len(nodes) + own, 0, 0)


@contextmanager
def fresh_database(node: Node, with_views: bool) -> Iterator[CouchDB]:
    """Create a database with a new name, optionally with the views of the states, and delete it at the end."""
    name = f"picas_benchmark_{uuid4().hex}"
    client = node.client(name, create=True)
    try:
        if with_views:
            create_views(client)
        yield client
    finally:
        del client.server[name]


def new_token(number: int, text: str = "", **fields: Any) -> dict[str, Any]:
    """Return a token as `picas.pushes` makes it; fields override its content."""
    return {"_id": f"token_{number}", **TokenGenerator.get_empty_token(), "input": text, "exit_code": "", **fields}


def save_tokens(client: CouchDB, first: int, count: int, **fields: Any) -> Iterator[dict[str, Any]]:
    """Save new tokens, numbered from `first`, and yield each with its `_rev`."""
    for begin in range(first, first + count, CHUNK):
        numbers = range(begin, min(begin + CHUNK, first + count))
        tokens = [new_token(number, f"input of token {number}", **fields) for number in numbers]
        if not all(client.save_documents(tokens)):
            raise RuntimeError("the server refused tokens in a new database")
        yield from tokens


def warm_views(node: Node, database: str) -> None:
    """Build every index of a database, with one query per design document.

    Such a query may time out on the server while there is much to index; the server continues to index.
    """
    client = node.client(database, read_timeout=INDEX_TIMEOUT)
    rows = client.db.view("_all_docs", startkey="_design/", endkey="_design0", include_docs=True).rows
    for row in rows:
        for name, view in row.doc.get("views", {}).items():
            if "reduce" not in view:
                design_doc = row.id.partition("/")[2]
                wait_out(partial(client.get_from_view, name, design_doc=design_doc, limit=1), INDEX_TIMEOUT, bool)
                break  # the views of one design document are indexed together
