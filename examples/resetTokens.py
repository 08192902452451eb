"""Put tokens back to todo: tokens that are locked by a dead pilot, or tokens in error that you want to retry.

The tokens keep their logs and their history. A pilot that is still working on such a token does not save its result.
"""

import argparse

from couchdb.http import ResourceNotFound

from picas import connect, console
from picas.pool import reset_tokens


def main() -> None:
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
        help="only tokens that were locked more than HOURS hours ago",
    )
    arguments = parser.parse_args()
    design_doc, view = arguments.view

    client = connect(max_outage=0)
    try:
        result = reset_tokens(client, view, design_doc, arguments.hours)
    except ResourceNotFound:
        raise console.no_such_view(view, design_doc, client) from None
    print(f"Reset {result.changed} tokens of {design_doc}/{view} to todo")
    if result.kept:
        print(f"Left alone {result.kept} tokens that changed meanwhile")


def hours(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of hours")
    return number


if __name__ == "__main__":
    console.run(main)
