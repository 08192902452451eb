"""Measures the server's own limit: tokens per second if each token costs two single PUTs and nothing else.

Each connection belongs to a process that locks a token and marks it as done, again and again. It reads nothing and
competes with no other process, and the database has no views.
"""

from __future__ import annotations

import http.client
import itertools
import json
import multiprocessing
import time
from statistics import median
from typing import Any

from reports import Row, leave_interrupts_to_parent, make_parser, positive, report, run, tell
from servers import Node, counts_since, fresh_database, read_counts, save_tokens

from picas import modifiers

COLUMNS = ("connections", "tokens/s", "lowest", "highest", "requests/token")
PATIENCE = 600.0
"""Seconds that the processes may take to connect, and again to do their work."""
CONTEXT = multiprocessing.get_context("spawn")


def main() -> None:
    """Run the benchmark that the command line describes."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--connections",
        type=positive,
        nargs="+",
        default=[1, 4, 16],
        help="numbers of connections to measure, one row each (default: 1 4 16)",
    )
    parser.add_argument("--tokens", type=positive, default=2000, help="tokens per run (default: 2000)")
    parser.add_argument("--repeat", type=positive, default=3, help="runs per row (default: 3)")
    arguments = parser.parse_args()
    rows = []
    for connections in arguments.connections:
        runs = [_measure(arguments.nodes, connections, arguments.tokens) for _ in range(arguments.repeat)]
        rows.append(_summary(connections, runs))
        tell(f"{connections} connections: {rows[-1]['tokens/s']:.0f} tokens/s")
    report(arguments, COLUMNS, rows)


def _summary(connections: int, runs: list[Row]) -> Row:
    rates = [row["tokens/s"] for row in runs]
    requests = [row["requests/token"] for row in runs if row["requests/token"] is not None]
    return {
        "connections": connections,
        "tokens/s": median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "requests/token": median(requests) if requests else None,
        "runs": runs,
    }


def _measure(nodes: list[Node], connections: int, count: int) -> Row:
    """Make one run and return its rates."""
    with fresh_database(nodes[0], with_views=False) as client:
        tokens = list(save_tokens(client, 0, count))
        barrier = CONTEXT.Barrier(connections + 1)
        results: Any = CONTEXT.Queue()
        processes = [
            CONTEXT.Process(
                target=_put_all, args=(node, client.db.name, tokens[number::connections], barrier, results), daemon=True
            )
            for number, node in zip(range(connections), itertools.cycle(nodes))
        ]
        try:
            for process in processes:
                process.start()
            counts = read_counts(nodes)
            barrier.wait(PATIENCE)
            times = [_check(results.get(timeout=PATIENCE)) for _ in processes]
            counts = counts_since(counts, nodes)
        finally:
            for process in processes:
                process.terminate()
                process.join()
    seconds = max(end for _, end in times) - min(start for start, _ in times)
    return {"tokens/s": count / seconds, "requests/token": counts and counts.requests / count}


def _check(result: Any) -> Any:
    """Return the times that a process reported.

    :raises RuntimeError: if the process failed
    """
    if isinstance(result, str):
        raise RuntimeError(result)
    return result


def _put_all(node: Node, database: str, tokens: list[dict[str, Any]], barrier: Any, results: Any) -> None:
    """Save every token twice; report the start and the end (seconds since the epoch), or the error."""
    leave_interrupts_to_parent()
    headers = node.headers()
    try:
        connection = node.connection()
        work = [(f"/{database}/{token['_id']}", token["_rev"], *_bodies(token)) for token in tokens]
        barrier.wait(PATIENCE)
        start = time.time()
        for path, rev, locked, done in work:
            _put(connection, path, done, _put(connection, path, locked, rev, headers), headers)
        results.put((start, time.time()))
    except Exception as error:
        barrier.abort()
        results.put(f"{type(error).__name__}: {error}")


def _bodies(token: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return a token as a pilot saves it, locked and then done, without the opening brace and the revision."""
    content = {key: value for key, value in token.items() if key != "_rev"}
    locked = json.dumps(modifiers.lock(content, "pilot" * 6))
    content["exit_code"] = 0
    done = json.dumps(modifiers.end_attempt(modifiers.close(content), "done"))
    return locked[1:].encode(), done[1:].encode()


def _put(connection: http.client.HTTPConnection, path: str, body: bytes, rev: str, headers: dict[str, str]) -> str:
    """Save a new revision of a document and return that revision."""
    connection.request("PUT", path, b'{"_rev":"%s",' % rev.encode() + body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status not in (201, 202):
        raise RuntimeError(f"the server answers {answer.status} to a save: {content[:200]!r}")
    return str(json.loads(content)["rev"])


if __name__ == "__main__":
    run(main)
