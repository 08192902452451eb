"""Measures how fast `picas.pushes.push_file` fills the pool, compared with bare `_bulk_docs` requests.

The bare requests send the same documents over one connection; the time to encode them does not count. The two
alternate, each in a new process and into a new database without views.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Callable

from reports import Row, leave_interrupts_to_parent, make_parser, positive, report, run, tell
from servers import Node, fresh_database, new_token

from picas.pushes import CHUNK, push_file, read_inputs

COLUMNS = ("who", "tokens", "tokens/s", "lowest", "highest", "share %", "peak MB")
CONTEXT = multiprocessing.get_context("spawn")


def main() -> None:
    """Run the benchmark that the command line describes."""
    parser = make_parser(__doc__)
    parser.add_argument("--tokens", type=positive, default=1_000_000, help="lines of the input file (default: 1000000)")
    parser.add_argument("--repeat", type=positive, default=1, help="runs of each kind (default: 1)")
    arguments = parser.parse_args()
    kinds = {"_bulk_docs": _push_bare, "push_file": _push_file}
    runs: dict[str, list[Row]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.txt"
        _write_inputs(path, arguments.tokens)
        for repeat in range(arguments.repeat):
            for kind in kinds if repeat % 2 == 0 else reversed(list(kinds)):
                row = _measure(kinds[kind], arguments.nodes[0], path, arguments.tokens)
                runs[kind].append(row)
                tell(f"{kind}: {row['tokens/s']:.0f} tokens/s")
    report(arguments, COLUMNS, _summaries(runs, arguments.tokens))


def _write_inputs(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(
            f"simulate --events 1000 --seed {number} --output run_{number}.root\n" for number in range(count)
        )


def _summaries(runs: dict[str, list[Row]], tokens: int) -> list[Row]:
    bound = median(row["tokens/s"] for row in runs["_bulk_docs"])
    rows = []
    for kind, same in runs.items():
        rates = [row["tokens/s"] for row in same]
        rows.append(
            {
                "who": kind,
                "tokens": tokens,
                "tokens/s": median(rates),
                "lowest": min(rates),
                "highest": max(rates),
                "share %": 100 * median(rates) / bound,
                "peak MB": max(row["peak MB"] for row in same),
                "runs": same,
            }
        )
    return rows


def _measure(push: Callable[[Node, str, Path], float], node: Node, path: Path, count: int) -> Row:
    """Push the file in a new process and return the rate and that process's peak memory."""
    with fresh_database(node, with_views=False) as client:
        receiver, sender = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_child, args=(push, node, client.db.name, path, sender), daemon=True)
        process.start()
        sender.close()  # so that the pipe ends with the process
        try:
            seconds, peak = receiver.recv()
        except EOFError:
            raise RuntimeError("the pushing process failed") from None
        finally:
            process.terminate()
            process.join()
        if client.doc_count() < count:
            raise RuntimeError(f"{count} tokens were pushed, but the database has {client.doc_count()} documents")
    return {"tokens/s": count / seconds, "seconds": seconds, "peak MB": peak}


def _child(push: Callable[[Node, str, Path], float], node: Node, database: str, path: Path, sender: Any) -> None:
    """Push the file; send the duration in seconds and the peak memory in MB."""
    leave_interrupts_to_parent()
    seconds = push(node, database, path)
    # On Linux a new program inherits the peak of the program that started it, so that must stay small too.
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    sender.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6))


def _push_file(node: Node, database: str, path: Path) -> float:
    """Push the file as `picas` does and return the duration in seconds, including reading the file."""
    client = node.client(database)
    start = time.monotonic()
    push_file(client, path)
    return time.monotonic() - start


def _push_bare(node: Node, database: str, path: Path) -> float:
    """Push the same documents and return the sum of the seconds from each request to its answer."""
    connection = node.connection()
    headers = node.headers()
    seconds = 0.0
    for body in _bodies(path):
        start = time.monotonic()
        connection.request("POST", f"/{database}/_bulk_docs", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        seconds += time.monotonic() - start
        if answer.status not in (201, 202):
            raise RuntimeError(f"the server answers {answer.status} to _bulk_docs: {content[:200]!r}")
    return seconds


def _bodies(path: Path) -> Iterator[bytes]:
    """Yield the body of each request."""
    numbered = enumerate(read_inputs(path))
    while chunk := list(islice(numbered, CHUNK)):
        yield json.dumps({"docs": [new_token(number, text) for number, text in chunk]}).encode()


if __name__ == "__main__":
    run(main)
