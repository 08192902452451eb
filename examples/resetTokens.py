"""Put tokens back to todo: those that stay locked because their pilot died, or those in error, to try them again.

They keep their logs and their history. A pilot that still works on such a token will not save its result in it.
"""

import argparse

from couchdb.http import ResourceNotFound

from picas import console
from picas.pool import reset_tokens


def main() -> None:
    parser = console.ArgumentParser(description=__doc__)
    parser.add_argument(
        "view", type=console.view_name, metavar="DESIGN_DOCUMENT/VIEW", help="for example Monitor/locked"
    )
    parser.add_argument(
        "hours", nargs="?", type=hours, default=0.0, metavar="HOURS", help="only tokens locked longer ago than this"
    )
    arguments = parser.parse_args()
    design_doc, view = arguments.view

    try:
        result = reset_tokens(console.connect(), view, design_doc, arguments.hours)
    except ResourceNotFound:
        raise console.no_such_view(view, design_doc) from None
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
