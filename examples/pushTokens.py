"""Make a token of each line of a file: the line becomes the token's input. Blank lines and lines that begin with #
are skipped.

The tokens are called token_0, token_1 and so on. A number is never used twice, even if others push at the same time.
To finish an interrupted push, push the same file again with --resume: tokens that are in the pool already are not
pushed again. Without --resume, the same file makes new tokens.

Use --set to say what the work needs from a pilot, e.g. --set cores=4 --set memory=8G --set gpus=1 --set tags=avx2
--set walltime=3600 (seconds).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Optional

from picas import connect, console
from picas.pushes import InputError, push_file, repeatable, was_broken_off

PROGRESS_MINIMUM = 2000  # tokens; fewer are pushed at once


def main() -> None:
    parser = console.ArgumentParser(description=__doc__)
    parser.add_argument("file", metavar="FILE", help="a text file or a pipe, or - for standard input")
    parser.add_argument("--resume", action="store_true", help="finish an interrupted push of the same file")
    parser.add_argument(
        "--set", type=field, action="append", metavar="FIELD=VALUE", dest="fields",
        help="a field to set in each token; the value is JSON, or else a string",
    )  # fmt: skip
    arguments = parser.parse_args()
    fields = None if arguments.fields is None else dict(arguments.fields)

    with repeatable(arguments.file) as path:
        push(path, arguments.file, arguments.resume, fields)


def push(path: Path, name: str, resume: bool, fields: Optional[dict[str, Any]]) -> None:
    client = connect(max_outage=0)
    if not resume and was_broken_off(client, path):
        print(f"Note: an earlier push of {name} did not finish; --resume finishes it", file=sys.stderr)
    try:
        result = push_file(client, path, resume, console.ProgressBar(PROGRESS_MINIMUM), fields)
    except InputError:
        raise
    except (Exception, KeyboardInterrupt):
        print(f"\nThe push did not finish. To push the rest: pushTokens.py --resume {name}", file=sys.stderr)
        raise
    if resume and result.existing:
        print(f"{result.existing} tokens were in the pool already")
    print(f"Pushed {result.pushed} tokens: {result.ids()}")


def field(text: str) -> tuple[str, Any]:
    """Split an argument into a field's name and its value."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text} is not like FIELD=VALUE")
    try:
        return name, json.loads(value, parse_constant=not_json)
    except ValueError:
        return name, value


def not_json(text: str) -> None:
    """Refuse NaN and Infinity, which Python accepts but a database does not."""
    raise ValueError(text)


if __name__ == "__main__":
    console.run(main)
