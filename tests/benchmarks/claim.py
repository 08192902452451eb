"""Measures how fast, and with how many requests, pilots claim and finish tokens that contain no work.

Each run uses a new database whose views are indexed before the start. All pilots are connected before the first one
begins. With --against, runs of another picas alternate with runs of this one.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from cpu import cpu_seconds
from fleet import Fleet, Outcome
from reports import Row, make_parser, positive, report, run, tell
from servers import Node, counts_since, fresh_database, read_counts, save_tokens, warm_views

from picas import CouchDB
from picas.views import count_states

COLUMNS = (
    "who",
    "pilots",
    "slots",
    "ahead",
    "tokens/s",
    "requests/token",
    "bulk/token",
    "server ms/token",
    "pilot ms/token",
    "processed",
    "distinct",
    "twice",
    "left",
    "crashed",
    "stopped",
    "202",
    "conflicts",
    "missing",
)
MEDIANS = ("tokens/s", "requests/token", "bulk/token", "server ms/token", "pilot ms/token")
SUMS = ("processed", "distinct", "twice", "left", "crashed", "stopped", "202", "conflicts", "missing")
SETTLE = 10.0
"""Seconds until the nodes of a cluster agree; before that, one node may return outdated documents."""
PAGE = 1000
"""Documents per request in the search for conflicts."""


@dataclass(frozen=True)
class Contender:
    """A picas to measure: the name of its rows, and the interpreter in which it is installed."""

    name: str
    python: str
    is_ours: bool


def main() -> None:
    """Run the benchmark that the command line describes."""
    arguments = _parse()
    contenders = [Contender("ours", sys.executable, True)]
    if arguments.against:
        contenders.append(Contender("against", arguments.against, False))
    runs: list[Row] = []
    for pilots, repeat in itertools.product(arguments.pilots, range(arguments.repeat)):
        # Each goes first equally often: a server that has just deleted a database is still busy for a moment.
        for contender in contenders if repeat % 2 == 0 else reversed(contenders):
            row = _measure(arguments, contender, pilots)
            runs.append(row)
            _tell_run(row)
    report(arguments, COLUMNS, list(_summaries(runs, arguments.pilots, contenders)), runs=runs)


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--pilots",
        type=positive,
        nargs="+",
        default=[1, 4, 16],
        help="numbers of pilots to measure, one row each (default: 1 4 16)",
    )
    parser.add_argument("--tokens", type=positive, default=5000, help="tokens to process per run (default: 5000)")
    parser.add_argument("--slots", type=positive, help="tokens that each pilot processes at a time: run(slots=…)")
    parser.add_argument(
        "--claim-ahead",
        type=float,
        metavar="SECONDS",
        help="how far ahead each pilot locks tokens: Actor(claim_ahead=…); by default as that picas does",
    )
    parser.add_argument("--logs", action="store_true", help="attach two short logs to each token")
    parser.add_argument(
        "--backlog", type=int, default=0, metavar="N", help="further todo tokens that are not processed"
    )
    parser.add_argument("--done", type=int, default=0, metavar="N", help="further tokens that are already done")
    parser.add_argument("--against", metavar="PYTHON", help="interpreter with another picas to compare with")
    parser.add_argument("--repeat", type=positive, default=3, help="runs per row (default: 3)")
    parser.add_argument(
        "--server-pid", type=int, nargs="+", metavar="PID", help="server processes whose CPU time is measured"
    )
    parser.add_argument("--conflicts", action="store_true", help="count conflicting and missing tokens after each run")
    parser.add_argument(
        "--limit", type=float, default=600.0, metavar="SECONDS", help="time limit of a run (default: 600)"
    )
    arguments = parser.parse_args()
    if arguments.tokens < max(arguments.pilots):
        parser.error("each pilot needs a token: --tokens must be at least --pilots")
    return arguments


def _measure(arguments: argparse.Namespace, contender: Contender, pilots: int) -> Row:
    """Make one run and return its results."""
    with fresh_database(arguments.nodes[0], with_views=True) as client:
        _fill(client, arguments)
        for node in arguments.nodes:
            warm_views(node, client.db.name)
        settings = list(_settings(arguments, client.db.name, pilots))
        with Fleet(contender.python, settings, keeps_path=contender.is_ours) as fleet:
            counts = read_counts(arguments.nodes)
            cpu = cpu_seconds(arguments.server_pid or ())
            outcome = fleet.run(arguments.limit)
            cpu = cpu_seconds(arguments.server_pid or ()) - cpu
            counts = counts_since(counts, arguments.nodes)
        row = {"who": contender.name, "pilots": pilots, **_judge(outcome)}
        tokens = max(row["distinct"], 1)
        if counts is not None:
            row.update({"requests/token": counts.requests / tokens, "bulk/token": counts.bulk / tokens})
            row["202"] = counts.accepted
        if arguments.server_pid:
            row["server ms/token"] = 1000 * cpu / tokens
        if len(arguments.nodes) > 1:
            time.sleep(SETTLE)
        if not arguments.backlog:
            row["left"] = arguments.tokens + arguments.done - count_states(client)["done"]
        if arguments.conflicts:
            found, row["conflicts"] = _count_documents(client)
            row["missing"] = arguments.tokens + arguments.backlog + arguments.done - found
        return row


def _fill(client: CouchDB, arguments: argparse.Namespace) -> None:
    free = arguments.tokens + arguments.backlog
    for _ in save_tokens(client, 0, free):
        pass
    for _ in save_tokens(client, free, arguments.done, lock=1, done=1, exit_code=0):
        pass


def _settings(arguments: argparse.Namespace, database: str, pilots: int) -> Iterator[dict[str, Any]]:
    """Yield the settings of each pilot."""
    nodes: Iterator[Node] = itertools.cycle(arguments.nodes)
    for number, node in zip(range(pilots), nodes):
        options = {}
        if arguments.slots:
            options["slots"] = arguments.slots
        if arguments.backlog:
            options["max_tasks"] = arguments.tokens // pilots + (number < arguments.tokens % pilots)
        yield {
            "connection": node.settings(database),
            "options": options,
            "claim_ahead": arguments.claim_ahead,
            "work": "logs" if arguments.logs else "nothing",
        }


def _judge(outcome: Outcome) -> Row:
    """Return the results that the pilots reported themselves."""
    times = outcome.times_processed
    return {
        "picas": next((told["picas"] for told in outcome.reports), None),
        "slots": next((told["slots"] for told in outcome.reports), None),
        "ahead": next((told["ahead"] for told in outcome.reports), None),
        "pilot ms/token": 1000 * outcome.cpu / max(len(times), 1),
        "tokens/s": len(times) / outcome.seconds if times else 0.0,
        "seconds": outcome.seconds,
        "seconds to end": outcome.seconds_to_end,
        "processed": sum(times.values()),
        "distinct": len(times),
        "twice": sum(1 for count in times.values() if count > 1),
        "crashed": outcome.crashed,
        "stopped": outcome.stopped,
        "errors": outcome.errors,
    }


def _count_documents(client: CouchDB) -> tuple[int, int]:
    """Return the number of tokens in the database, and how many of them have conflicting revisions."""
    found = conflicts = 0
    start = "token_"
    while True:
        options = {"startkey": start, "endkey": "token_\ufff0", "limit": PAGE + 1}
        rows = client.db.view("_all_docs", include_docs=True, conflicts=True, **options).rows
        page = rows[:PAGE]
        found += sum(1 for row in page if row.id != "token_counter")
        conflicts += sum(1 for row in page if "_conflicts" in row.doc)
        if len(rows) <= PAGE:
            return found, conflicts
        start = rows[PAGE].id


def _tell_run(row: Row) -> None:
    text = f"{row['who']} (picas {row['picas']}), {row['pilots']} pilots: {row['tokens/s']:.0f} tokens/s"
    if row["stopped"]:
        text += f"; time limit reached, {row['stopped']} pilots were stopped"
    if row["crashed"]:
        text += f"; {row['crashed']} pilots crashed: {', '.join(sorted(set(row['errors'])))}"
    tell(text)


def _summaries(runs: list[Row], pilots: list[int], contenders: list[Contender]) -> Iterator[Row]:
    """Yield a row for each number of pilots and each contender, with medians of rates and sums of counts."""
    for number, contender in itertools.product(pilots, contenders):
        same = [row for row in runs if row["pilots"] == number and row["who"] == contender.name]
        summary = {name: same[0][name] for name in ("who", "picas", "pilots", "slots", "ahead")}
        for names, merge in ((MEDIANS, median), (SUMS, sum)):
            for name in names:
                values = [row[name] for row in same if name in row]
                summary[name] = merge(values) if values else None
        yield summary


if __name__ == "__main__":
    run(main)
