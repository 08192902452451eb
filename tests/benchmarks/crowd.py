"""Measures what very many pilots with short tokens cost the server, and how long they wait for it.

The pilots are threads of this process that sleep for each token; everything else is real: the loop, the requests, the
heartbeats. Time is stretched: with --stretch 8 a token of one second takes eight, and so do the times that depend on
how long tokens take. So a server of two cores has the load of one of 16 cores in normal time. What the server takes to
answer, and all pauses, are not stretched, and are compared with the time that a token takes normally.
"""

from __future__ import annotations

import argparse
import inspect
import random
import threading
import time
from typing import Any

from cpu import cpu_seconds
from reports import Row, make_parser, positive, report, run, tell
from servers import counts_since, fresh_database, read_counts, save_tokens, warm_views

from picas import CouchDB, RunActor
from picas.pilot.heartbeat import HEARTBEAT
from picas.pilot.leases import LEASE
from picas.pool import windows

COLUMNS = (
    "pilots",
    "ahead",
    "tokens/s",
    "requests/token",
    "bulk/token",
    "server ms/token",
    "server cores",
    "waiting %",
    "longest %",
    "crashed",
)
STRETCHED = ("WINDOW_AGE", "CROWD_MEMORY")
"""Times in `picas.pool.windows` that depend on how long tokens take."""
START = 0.02
"""Mean time between the starts of two pilots, in seconds."""
WARM_UP = 3
"""Tokens that each pilot processes before the measurement."""
KNOWS_CLAIM_AHEAD = "claim_ahead" in inspect.signature(RunActor.__init__).parameters


class Sleeper(RunActor):
    """Sleeps for each token and notes when it did.

    :param db: the pool
    :param seconds: how long to sleep
    :param is_over: ends all sleep
    """

    def __init__(self, db: CouchDB, seconds: float, is_over: threading.Event, **options: Any) -> None:
        super().__init__(db, **options)
        self.seconds = seconds
        self.is_over = is_over
        self.spans: list[tuple[float, float]] = []
        """Start and end of each token that was processed, on the clock of `time.monotonic`."""

    def process_task(self, token: Any) -> None:
        """Sleep."""
        begin = time.monotonic()
        self.is_over.wait(self.seconds)
        self.spans.append((begin, time.monotonic()))


class Crowd:
    """Pilots in threads.

    :param client: the pool; they share its connections
    :param arguments: the command line
    """

    def __init__(self, client: CouchDB, arguments: argparse.Namespace) -> None:
        stretch = arguments.stretch
        options = {"heartbeat": HEARTBEAT * stretch, "lease": LEASE * stretch}
        if KNOWS_CLAIM_AHEAD and arguments.claim_ahead is not None:
            options["claim_ahead"] = arguments.claim_ahead * stretch
        self._is_over = threading.Event()
        self.pilots = [
            Sleeper(client, arguments.token_seconds * stretch, self._is_over, **options)
            for _ in range(arguments.pilots)
        ]
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(pilot,), daemon=True) for pilot in self.pilots]

    def start(self) -> None:
        """Start the pilots one after the other."""
        for thread in self._threads:
            thread.start()
            time.sleep(random.uniform(0, 2 * START))

    def stop(self) -> None:
        """Let the pilots end with their tokens, and wait for them."""
        for pilot in self.pilots:
            pilot.iterator.stop()
        self._is_over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self, pilot: Sleeper) -> None:
        try:
            pilot.run()
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")


def main() -> None:
    """Run the benchmark that the command line describes."""
    arguments = _parse()
    for name in STRETCHED:
        setattr(windows, name, getattr(windows, name) * arguments.stretch)
    token_seconds = arguments.token_seconds * arguments.stretch
    lead = START * arguments.pilots + WARM_UP * token_seconds
    tokens = int(arguments.pilots * ((lead + arguments.seconds) / token_seconds + arguments.backlog))
    with fresh_database(arguments.nodes[0], with_views=True) as client:
        tell(f"pushing {tokens} tokens")
        for _ in save_tokens(client, 0, tokens):
            pass
        warm_views(arguments.nodes[0], client.db.name)
        crowd = Crowd(client, arguments)
        try:
            crowd.start()
            tell(f"{arguments.pilots} pilots have started")
            time.sleep(WARM_UP * token_seconds)
            row = _measure(arguments, crowd)
        finally:
            crowd.stop()
        row["crashed"], row["errors"] = len(crowd.errors), crowd.errors
    report(arguments, COLUMNS, [row])


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--pilots", type=positive, default=1000, help="simulated pilots (default: 1000)")
    parser.add_argument("--token-seconds", type=float, default=1.0, help="time of a token (default: 1)")
    parser.add_argument("--stretch", type=float, default=8.0, help="factor by which time is stretched (default: 8)")
    parser.add_argument("--seconds", type=float, default=120.0, help="duration of the measurement (default: 120)")
    parser.add_argument(
        "--claim-ahead",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="how far ahead each pilot locks tokens, before time is stretched (default: 2)",
    )
    parser.add_argument(
        "--backlog",
        type=int,
        default=50,
        metavar="N",
        help="tokens for each pilot that are left at the end: pilots meet less often in a larger pool (default: 50)",
    )
    parser.add_argument("--server-pid", type=int, nargs="+", metavar="PID", help="processes whose CPU time is measured")
    return parser.parse_args()


def _measure(arguments: argparse.Namespace, crowd: Crowd) -> Row:
    """Measure for some time and return the results."""
    begin, counts = time.monotonic(), read_counts(arguments.nodes)
    cpu = cpu_seconds(arguments.server_pid or ())
    time.sleep(arguments.seconds)
    cpu = cpu_seconds(arguments.server_pid or ()) - cpu
    end, counts = time.monotonic(), counts_since(counts, arguments.nodes)
    spans = [list(pilot.spans) for pilot in crowd.pilots]
    tokens = sum(1 for pilot in spans for _, ended in pilot if begin < ended <= end)
    waits = [_waiting(pilot, arguments, end - arguments.seconds, end) for pilot in spans]
    rate = arguments.stretch * tokens / (end - begin)
    row: Row = {
        "pilots": arguments.pilots,
        "ahead": arguments.claim_ahead if KNOWS_CLAIM_AHEAD else None,
        "tokens/s": rate,
        "waiting %": 100 * sum(waits) / len(waits),
        "longest %": 100 * max(waits),
        "waits": waits,
    }
    if counts is not None and tokens:
        row.update({"requests/token": counts.requests / tokens, "bulk/token": counts.bulk / tokens})
    if arguments.server_pid and tokens:
        row.update({"server ms/token": 1000 * cpu / tokens, "server cores": rate * cpu / tokens})
    return row


def _waiting(spans: list[tuple[float, float]], arguments: argparse.Namespace, begin: float, end: float) -> float:
    """Return the share of its time that a pilot would wait if time were not stretched.

    :param spans: start and end of each token that it has processed
    :param begin: start of the measurement; what comes before it does not count
    :param end: its end; the token that is at work then does not count
    """
    inside = [span for span in spans if span[0] >= begin and span[1] <= end]
    if len(inside) < 2:  # without two tokens there is nothing between them
        return 0.0 if any(span[0] < end and span[1] > begin for span in spans) else 1.0
    waited = sum(later[0] - earlier[1] for earlier, later in zip(inside, inside[1:]))
    each = waited / (len(inside) - 1)
    return each / (each + arguments.token_seconds)


if __name__ == "__main__":
    run(main)
