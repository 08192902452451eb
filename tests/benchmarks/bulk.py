"""Measures how fast `picas.pool` changes and deletes many tokens, compared with bare `_bulk_docs` requests.

The bare requests send the same documents over one or several connections; they read nothing, and the time to encode
them does not count. Each run has a database of its own with the views of Monitor, which the server keeps up to date
meanwhile, as it does in any pool.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from statistics import median
from typing import Any, Callable

from reports import Row, make_parser, positive, report, run, tell
from servers import Node, fresh_database, save_tokens, warm_views

from picas import CouchDB, Document
from picas.pool import delete_tokens, reset_tokens
from picas.pool.edits import put_back
from picas.pushes import CHUNK

COLUMNS = ("what", "who", "connections", "tokens/s", "lowest", "highest", "share %")
BARE, OWN = "_bulk_docs", "picas"
CHANGES = ("reset", "delete")


def main() -> None:
    """Run the benchmark that the command line describes."""
    parser = make_parser(__doc__)
    parser.add_argument("--tokens", type=positive, default=50_000, help="tokens in each pool (default: 50000)")
    parser.add_argument(
        "--connections",
        type=positive,
        nargs="+",
        default=[1, 2, 4],
        help="numbers of connections of the bare requests, one row each (default: 1 2 4)",
    )
    parser.add_argument("--repeat", type=positive, default=1, help="runs of each kind (default: 1)")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for what in CHANGES:
        kinds = [(BARE, connections) for connections in arguments.connections] + [(OWN, None)]
        runs: dict[Any, list[float]] = {kind: [] for kind in kinds}
        for repeat in range(arguments.repeat):
            for kind in kinds if repeat % 2 == 0 else reversed(kinds):
                rate = arguments.tokens / _measure(arguments.nodes[0], what, kind[1], arguments.tokens)
                runs[kind].append(rate)
                tell(f"{what}, {kind[0]}, {kind[1] or '-'} connections: {rate:.0f} tokens/s")
        rows += _summaries(what, runs)
    report(arguments, COLUMNS, rows)


def _summaries(what: str, runs: dict[Any, list[float]]) -> Iterator[Row]:
    bound = max(median(rates) for (who, _), rates in runs.items() if who == BARE)
    for (who, connections), rates in runs.items():
        yield {
            "what": what,
            "who": who,
            "connections": connections,
            "tokens/s": median(rates),
            "lowest": min(rates),
            "highest": max(rates),
            "share %": 100 * median(rates) / bound,
            "runs": rates,
        }


def _measure(node: Node, what: str, connections: int | None, count: int) -> float:
    """Change or delete all tokens of a new pool and return the duration in seconds.

    :param connections: those of bare requests, None for picas
    """
    with fresh_database(node, with_views=True) as client:
        tokens = list(save_tokens(client, 0, count, lock=1_700_000_000, done=1_700_000_010, hostname="a node"))
        warm_views(node, client.database_name)
        if connections is None:
            return _change_as_picas(client, what, count)
        bodies = list(_bodies(what, tokens))
        del tokens
        return _send_all(node, client.database_name, bodies, connections)


def _change_as_picas(client: CouchDB, what: str, count: int) -> float:
    change: Callable[..., Any] = reset_tokens if what == "reset" else delete_tokens
    start = time.monotonic()
    result = change(client, "error")
    seconds = time.monotonic() - start
    if result.changed != count:
        raise RuntimeError(f"{result.changed} of {count} tokens were changed")
    return seconds


def _bodies(what: str, tokens: list[dict[str, Any]]) -> Iterator[bytes]:
    """Yield the body of each bare request."""
    for first in range(0, len(tokens), CHUNK):
        yield json.dumps({"docs": [_changed(what, token) for token in tokens[first : first + CHUNK]]}).encode()


def _changed(what: str, token: dict[str, Any]) -> dict[str, Any]:
    """Return a token as picas writes it."""
    if what == "delete":
        return {"_id": token["_id"], "_rev": token["_rev"], "_deleted": True}
    put_back(Document(token))
    return token


def _send_all(node: Node, database: str, bodies: list[bytes], connections: int) -> float:
    """Send all bodies and return the seconds from the first request to the last answer."""
    queue: SimpleQueue[bytes] = SimpleQueue()
    for body in bodies:
        queue.put(body)
    with ThreadPoolExecutor(connections) as senders:
        start = time.monotonic()
        sent = sum(senders.map(partial(_send, node, database), [queue] * connections))
    seconds = time.monotonic() - start
    if sent != len(bodies):
        raise RuntimeError(f"{sent} of {len(bodies)} requests were sent")
    return seconds


def _send(node: Node, database: str, bodies: SimpleQueue[bytes]) -> int:
    """Send bodies over one connection until there are no more, and return how many."""
    connection, headers, sent = node.connection(), node.headers(), 0
    while not bodies.empty():
        connection.request("POST", f"/{database}/_bulk_docs", bodies.get(), headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status not in (201, 202) or b'"error"' in content:
            raise RuntimeError(f"the server answers {answer.status} to _bulk_docs: {content[:200]!r}")
        sent += 1
    return sent


if __name__ == "__main__":
    run(main)
