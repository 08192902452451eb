"""Put tokens back to todo: tokens that are locked by a dead pilot, or tokens in error that you want to retry.

The tokens keep their logs and their history. A pilot that is still working on such a token does not save its result.
The script says how many locked tokens such pilots hold, and asks first if it runs at a terminal.

With --dead, only locked tokens of dead pilots are reset. A pilot is dead if the other pilots have found that, if its
document is gone, or if it is silent: if it does not save its document for its lease (ten minutes by default) while this
script watches.
"""

import argparse
import sys

try:
    from couchdb.http import ResourceNotFound

    from picas import CouchDB, connect, console
    from picas.cli.progress import progress_of, wait_until_indexed
    from picas.pilot import dead_holders, describe_loss, left_alone, watch_text
    from picas.pool import Change, count_holders, count_tokens, reset_tokens
    from picas.tokens import STATES
except ImportError as error:
    sys.exit(f"picas is not installed in {sys.executable} ({error}): activate its environment, or install it there")


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
        wait_until_indexed(client, design_doc)
        if arguments.dead:
            result = reset_of_dead(client, view, design_doc, arguments.hours)
        elif arguments.yes or may_reset(client, view, design_doc, arguments.hours):
            with progress_of(count_tokens(client, view, design_doc)) as show:
                result = reset_tokens(client, view, design_doc, arguments.hours, progress=show)
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
    loss = describe_loss(client, count_holders(client, view, design_doc, hours))
    if loss is None:
        return True
    warning = f"{loss}; --dead leaves live pilots alone"
    if sys.stdin.isatty():
        return console.confirm(f"{warning}. Reset all?")
    print(f"Warning: {warning}", file=sys.stderr)
    return True


def reset_of_dead(client: CouchDB, view: str, design_doc: str, hours: float) -> Change:
    """Reset the tokens of dead pilots at once, and those of silent pilots when it is known that they are silent."""
    holders = count_holders(client, view, design_doc, hours)
    dead, changed, kept = set(), 0, 0
    for pilots in dead_holders(client, holders, lambda *watched: print(watch_text(*watched), file=sys.stderr)):
        if not pilots:
            continue
        with progress_of(count_tokens(client, view, design_doc)) as show:
            result = reset_tokens(client, view, design_doc, hours, pilots, show)
        changed, kept, dead = changed + result.changed, kept + result.kept, dead | pilots
    for line in left_alone(holders, dead):
        print(line)
    return Change(changed, kept)


def hours(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of hours")
    return number


if __name__ == "__main__":
    console.run(main)
