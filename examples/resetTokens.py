"""Put tokens back to todo: tokens that are locked by a dead pilot, or tokens in error that you want to retry.

The tokens keep their logs and their history. A pilot that is still working on such a token does not save its result.
The script says how many locked tokens such pilots hold, and asks first if it runs at a terminal.

With --dead, only locked tokens of dead pilots are reset. A pilot is dead if the other pilots have found that, if its
document is gone, or if it is silent: if it does not save its document for its lease (ten minutes by default) while this
script watches.
"""

import argparse
import sys

from couchdb.http import ResourceNotFound

from picas import CouchDB, connect, console
from picas.pilot import dead_pilots, silent_pilots, watch_time
from picas.pool import Change, count_holders, reset_tokens
from picas.tokens import STATES


def main() -> int:
    parser = console.ArgumentParser(description=__doc__)
    parser.add_argument(
        "view", type=console.view_name, metavar="DESIGN_DOCUMENT/VIEW", help="for example Monitor/locked"
    )
    parser.add_argument(
        "hours",
        nargs="?",
        type=hours,
        default=0.0,
        metavar="HOURS",
        help="only tokens that were locked more than HOURS hours ago; of tokens that are not locked, those whose last "
        "attempt ended more than HOURS hours ago",
    )
    parser.add_argument("--dead", action="store_true", help="only locked tokens of pilots that are dead or silent")
    parser.add_argument("--yes", action="store_true", help="do not ask first")
    arguments = parser.parse_args()
    design_doc, view = arguments.view

    client = connect(max_outage=0)
    try:
        if arguments.dead:
            result = reset_of_dead(client, view, design_doc, arguments.hours)
        elif arguments.yes or may_reset(client, view, design_doc, arguments.hours):
            result = reset_tokens(client, view, design_doc, arguments.hours)
        else:
            print("Nothing was reset")
            return console.EXIT_FAILURE
    except ResourceNotFound:
        raise console.no_such_view(view, design_doc, client) from None
    print(f"Reset {result.changed} tokens of {design_doc}/{view} to todo")
    if result.kept:
        print(f"Left alone {result.kept} tokens that changed meanwhile")
    return 0


def may_reset(client: CouchDB, view: str, design_doc: str, hours: float) -> bool:
    """Warn of pilots that lose their tokens, and ask a person at a terminal."""
    if view in STATES and view != "locked":
        return True  # no token of these views is locked
    holders = count_holders(client, view, design_doc, hours)
    alive = {id for id in holders if id} - dead_pilots(client, filter(None, holders))
    if not alive:
        return True
    warning = (
        f"{sum(holders[id] for id in alive)} of {sum(holders.values())} locked tokens are held by {pilots(len(alive))} "
        "that may be alive and would lose this work; --dead leaves live pilots alone"
    )
    if sys.stdin.isatty():
        return console.confirm(f"{warning}. Reset all?")
    print(f"Warning: {warning}", file=sys.stderr)
    return True


def reset_of_dead(client: CouchDB, view: str, design_doc: str, hours: float) -> Change:
    """Reset the tokens of dead pilots at once, and those of silent pilots when it is known that they are silent."""
    holders = count_holders(client, view, design_doc, hours)
    unknown = holders.pop("", 0)
    dead = dead_pilots(client, holders)
    first = reset_tokens(client, view, design_doc, hours, dead)
    doubtful = set(holders) - dead
    silent = set()
    if doubtful:
        wait = watch_time(client, doubtful)
        print(f"Watching {pilots(len(doubtful))} for up to {wait:.0f} s to see who is alive", file=sys.stderr)
        silent = silent_pilots(client, doubtful)
    second = reset_tokens(client, view, design_doc, hours, silent) if silent else Change()
    alive = doubtful - silent
    if alive:
        are = "is" if len(alive) == 1 else "are"
        print(f"Left alone {sum(holders[id] for id in alive)} tokens of {pilots(len(alive))} that {are} alive")
    if unknown:
        print(f"Left alone {unknown} tokens that name no pilot: they were locked by an older release or by hand")
    return Change(first.changed + second.changed, first.kept + second.kept)


def pilots(count: int) -> str:
    return f"{count} pilot{'' if count == 1 else 's'}"


def hours(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of hours")
    return number


if __name__ == "__main__":
    console.run(main)
