"""Measures what the heartbeats of many pilots cost the server, and their watch over each other.

The pilots are simulated: a few threads do what the heartbeat thread of each pilot would do, when it is due. Each pilot
holds a token, as one does that is at work.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from typing import Any

from cpu import cpu_seconds
from reports import Row, make_parser, positive, report, run, tell
from servers import counts_since, fresh_database, new_token, read_counts

from picas import CouchDB, Task
from picas.pilot.heartbeat import HEARTBEAT, Duties, Heartbeat
from picas.pilot.identity import Pilot
from picas.pilot.leases import LEASE, Watch

COLUMNS = ("pilots", "seconds", "requests/s", "server cores")
THREADS = 8


class Holding(Duties):
    """The duties of a pilot that holds a token.

    :param client: the pool
    :param token_id: the id of the token
    """

    def __init__(self, client: CouchDB, token_id: str) -> None:
        self._client = client
        self._token_id = token_id

    def describe(self) -> dict[str, Any]:
        """See `Duties.describe`."""
        return {"holds": [self._token_id], "free": 0}

    def check(self) -> None:
        """Ask for the revision of the token, as `RunDuties.check` does."""
        self._client.all_docs(keys=[self._token_id])


class Fleet:
    """Simulated pilots that send heartbeats.

    :param client: the pool
    :param count: number of pilots
    :param heartbeat: seconds between two heartbeats of a pilot
    :param lease: lease of each pilot in seconds
    """

    def __init__(self, client: CouchDB, count: int, heartbeat: float, lease: float) -> None:
        self._heartbeat = heartbeat
        self._order = itertools.count()
        self._due: list[tuple[float, int, Heartbeat]] = []
        self._guard = threading.Lock()
        self._has_ended = threading.Event()
        pilots = [Pilot() for _ in range(count)]
        tokens = [Task(new_token(number)).lock(pilot.id) for number, pilot in enumerate(pilots)]
        client.save_documents(tokens)
        for pilot, token in zip(pilots, tokens):
            watch = Watch(client, pilot.id, lease)
            heart = Heartbeat(client, pilot, heartbeat, watch, Holding(client, token.id))
            self._put(random.uniform(0, heartbeat), heart)
        self._unstarted = {id(heart) for _, _, heart in self._due}
        self._threads = [threading.Thread(target=self._work) for _ in range(THREADS)]

    def start(self) -> None:
        """Start the pilots, spread over the time between two heartbeats, and return when all have started."""
        for thread in self._threads:
            thread.start()
        while self._unstarted:
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop all pilots at once, as if they had been killed."""
        self._has_ended.set()
        for thread in self._threads:
            thread.join()

    def _put(self, seconds: float, heart: Heartbeat) -> None:
        with self._guard:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), heart))

    def _next(self) -> Heartbeat | None:
        with self._guard:
            if self._due and self._due[0][0] <= time.monotonic():
                return heapq.heappop(self._due)[2]
        return None

    def _work(self) -> None:
        while not self._has_ended.is_set():
            heart = self._next()
            if heart is None:
                time.sleep(0.005)
            elif id(heart) in self._unstarted:
                heart.save_first()
                self._unstarted.discard(id(heart))
                self._put(0, heart)
            else:
                self._put(heart.step(), heart)


def main() -> None:
    """Run the benchmark that the command line describes."""
    parser = make_parser(__doc__)
    parser.add_argument("--pilots", type=positive, default=1000, help="simulated pilots (default: 1000)")
    parser.add_argument("--seconds", type=float, default=300.0, help="duration of the measurement (default: 300)")
    parser.add_argument("--heartbeat", type=float, default=HEARTBEAT, help="seconds between two heartbeats of a pilot")
    parser.add_argument(
        "--lease", type=float, default=LEASE, help="seconds without a heartbeat until a pilot counts as dead"
    )
    parser.add_argument(
        "--settle",
        type=float,
        metavar="SECONDS",
        help="seconds until the measurement begins: each pilot has to look at the others once (default: lease / 2)",
    )
    parser.add_argument("--server-pid", type=int, metavar="PID", help="process whose CPU time is measured")
    arguments = parser.parse_args()
    with fresh_database(arguments.nodes[0], with_views=True) as client:
        fleet = Fleet(client, arguments.pilots, arguments.heartbeat, arguments.lease)
        try:
            fleet.start()
            time.sleep(arguments.lease / 2 if arguments.settle is None else arguments.settle)
            tell(f"{arguments.pilots} pilots have started; counting requests for {arguments.seconds:g} s")
            row = _count(arguments)
        finally:
            fleet.stop()
    report(arguments, COLUMNS, [row])


def _count(arguments: Any) -> Row:
    counts, used = read_counts(arguments.nodes), _cpu(arguments.server_pid)
    time.sleep(arguments.seconds)
    counts, spent = counts_since(counts, arguments.nodes), _cpu(arguments.server_pid)
    return {
        "pilots": arguments.pilots,
        "seconds": arguments.seconds,
        "requests/s": counts and counts.requests / arguments.seconds,
        "server cores": None if used is None or spent is None else (spent - used) / arguments.seconds,
    }


def _cpu(pid: int | None) -> float | None:
    return None if pid is None else cpu_seconds([pid])


if __name__ == "__main__":
    run(main)
