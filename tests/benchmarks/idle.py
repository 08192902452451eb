"""Measures what pilots cost that wait for work, and how soon one of them locks a new token.

A few processes run many pilots each, one per thread; every pilot has its own connections and endless iterator.
"""

from __future__ import annotations

import argparse
import multiprocessing
import queue
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from reports import Row, leave_interrupts_to_parent, make_parser, positive, report, run, tell
from servers import Node, counts_since, fresh_database, new_token, read_counts, warm_views

from picas import CouchDB, EndlessViewIterator, RunActor, TaskViewIterator

COLUMNS = ("token", "seconds", "requests", "pilots")
PROCESSES = 4
SPREAD = 10.0
"""Seconds over which the pilots start, as long as an endless iterator pauses, so that they do not poll in step."""
SETTLE = 15.0
"""Seconds after the start until all pilots have found nothing and wait."""
WINDOW = 5.0
"""Seconds after a push in which requests are counted."""
PATIENCE = 60.0
"""Seconds until a token counts as not taken, and a pilot as not ended."""
CONTEXT = multiprocessing.get_context("spawn")


class IdlePilot(RunActor):
    """Reports each token that it gets, and does nothing with it."""

    def __init__(self, number: int, client: CouchDB, seen: Any) -> None:
        super().__init__(client, EndlessViewIterator(TaskViewIterator(client, "todo")))
        self.number = number
        self.seen = seen

    def process_task(self, token: Any) -> None:
        """Send the token, this pilot's number and the time (seconds since the epoch) to the benchmark."""
        self.seen.put((token["_id"], self.number, time.time()))


@dataclass
class Sightings:
    """Which pilots got which tokens, and when, as the pilots report it."""

    source: Any
    by_token: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def read(self, seconds: float = 0.0) -> None:
        """Collect reports for a number of seconds."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                token, pilot, moment = self.source.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                return
            self.by_token.setdefault(token, []).append((pilot, moment))

    def wait_for(self, token: str) -> float | None:
        """Return when the first pilot got the token, in seconds since the epoch; None if no pilot does."""
        deadline = time.monotonic() + PATIENCE
        while token not in self.by_token and time.monotonic() < deadline:
            self.read(0.1)
        return min((moment for _, moment in self.by_token.get(token, ())), default=None)


def main() -> None:
    """Run the benchmark that the command line describes."""
    arguments = _parse()
    with fresh_database(arguments.nodes[0], with_views=True) as client:
        warm_views(arguments.nodes[0], client.db.name)
        seen: Any = CONTEXT.Queue()
        unended: list[int] = []
        with _idle_pilots(arguments, client.db.name, seen, unended):
            time.sleep(SETTLE)
            tell(f"{arguments.pilots} pilots wait; counting requests for {arguments.seconds:g} s")
            idle_rate = _count_idle(arguments.nodes, arguments.seconds)
            sightings = Sightings(seen)
            rows = [_push_one(client, arguments.nodes, number, sightings) for number in range(arguments.tokens)]
            sightings.read(1.0)
        for row in rows:
            row["pilots"] = len({pilot for pilot, _ in sightings.by_token.get(row["token"], ())})
    summary = _summarise(arguments, idle_rate, rows, sum(unended))
    report(arguments, COLUMNS, rows, summary=summary)
    print()
    for name, value in summary.items():
        print(f"{name}: {'-' if value is None else value}")


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--pilots", type=positive, default=100, help="waiting pilots (default: 100)")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="how long requests are counted while idle (default: 120)"
    )
    parser.add_argument(
        "--tokens", type=positive, default=10, help="tokens that are pushed afterwards, one by one (default: 10)"
    )
    return parser.parse_args()


def _count_idle(nodes: list[Node], seconds: float) -> float | None:
    """Return the requests per second that the server gets while the pilots wait."""
    counts = read_counts(nodes)
    time.sleep(seconds)
    counts = counts_since(counts, nodes)
    return counts and counts.requests / seconds


def _push_one(client: CouchDB, nodes: list[Node], number: int, sightings: Sightings) -> Row:
    """Push one token; return the seconds until it was locked, and the requests in the window after the push."""
    time.sleep(random.uniform(0, 2))  # so that the pushes are not in step with the pilots
    token = new_token(number)
    counts = read_counts(nodes)
    pushed = time.time()
    client.save(token)
    sightings.read(WINDOW - (time.time() - pushed))
    counts = counts_since(counts, nodes, own=1)
    locked = sightings.wait_for(token["_id"])
    seconds = None if locked is None else locked - pushed
    tell(f"{token['_id']}: " + ("no pilot took it" if seconds is None else f"locked after {seconds:.2f} s"))
    return {"token": token["_id"], "seconds": seconds, "requests": counts and counts.requests}


def _summarise(arguments: argparse.Namespace, idle_rate: float | None, rows: list[Row], unended: int) -> dict[str, Any]:
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    counted = [row["requests"] for row in rows if row["requests"] is not None]
    return {
        "idle pilots": arguments.pilots,
        "requests a second while idle": None if idle_rate is None else round(idle_rate, 2),
        "seconds until locked, median": round(median(seconds), 3) if seconds else None,
        "seconds until locked, longest": round(max(seconds), 3) if seconds else None,
        f"requests in the {WINDOW:g} s after a push, median": median(counted) if counted else None,
        "tokens that one pilot processed": sum(1 for row in rows if row["pilots"] == 1),
        "tokens pushed": len(rows),
        f"pilots that did not end within {PATIENCE:g} s": unended,
    }


@contextmanager
def _idle_pilots(arguments: argparse.Namespace, database: str, seen: Any, unended: list[int]) -> Iterator[None]:
    """Run waiting pilots, and stop them at the end; each process adds the number of its pilots that did not end."""
    members: list[tuple[Any, Any]] = []
    try:
        for first in range(min(PROCESSES, arguments.pilots)):
            numbers = range(first, arguments.pilots, PROCESSES)
            nodes = [arguments.nodes[number % len(arguments.nodes)] for number in numbers]
            connections = [(number, node.settings(database)) for number, node in zip(numbers, nodes)]
            near, far = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_hold_pilots, args=(connections, seen, far), daemon=True)
            process.start()
            far.close()
            members.append((process, near))
        for _, near in members:
            near.recv()  # all its pilots are running
        yield
        for _, near in members:
            near.send("stop")
        unended += [near.recv() for _, near in members]
    finally:
        for process, _ in members:
            process.terminate()
            process.join()


def _hold_pilots(connections: list[tuple[int, dict[str, str]]], seen: Any, parent: Any) -> None:
    """Run pilots in threads until the parent stops them, and send it the number of pilots that did not end."""
    leave_interrupts_to_parent()
    pilots = [IdlePilot(number, CouchDB(**settings), seen) for number, settings in connections]
    threads = [threading.Thread(target=pilot.run, daemon=True) for pilot in pilots]
    for thread in threads:
        thread.start()
        time.sleep(SPREAD / len(threads))
    parent.send("running")
    parent.recv()
    for pilot in pilots:
        pilot.iterator.stop()
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    parent.send(sum(thread.is_alive() for thread in threads))


if __name__ == "__main__":
    run(main)
