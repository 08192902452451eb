"""Make a token of each line of a file: the line becomes the token's input. Blank lines and lines that begin with #
are skipped.

The tokens are called token_0, token_1 and so on. A number is never used twice, even if others push at the same time.
To finish an interrupted push, push the same file again with --resume: tokens that are in the pool already are not
pushed again. A file that is in the pool already is pushed once more only with --again, or after a question. The file
must be text in UTF-8.

Use --set to say what the work needs from a pilot, e.g. --set cores=4 --set memory=8G --set gpus=1 --set tags=avx2
--set walltime=2h.
"""

import sys
from pathlib import Path
from typing import Any, Optional

try:
    from picas import connect, console
    from picas.cli.arguments import field_value
    from picas.cli.output import tell
    from picas.pushes import AlreadyPushed, InputError, Pushed, PushError, push_file, repeatable
except ImportError as error:
    sys.exit(f"picas is not installed in {sys.executable} ({error}): activate its environment, or install it there")

PROGRESS_MINIMUM = 2000  # tokens; fewer are pushed at once


def main() -> int:
    parser = console.ArgumentParser(description=__doc__)
    parser.add_argument("file", metavar="FILE", help="a text file or a pipe, or - for standard input")
    repeats = parser.add_mutually_exclusive_group()
    repeats.add_argument("--resume", action="store_true", help="finish an interrupted push of the same file")
    repeats.add_argument("--again", action="store_true", help="push a file that is in the pool already once more")
    parser.add_argument(
        "--set", type=field_value, action="append", metavar="FIELD=VALUE", dest="fields",
        help="a field to set in each token; the value is JSON, or else a string",
    )  # fmt: skip
    arguments = parser.parse_args()
    fields = None if arguments.fields is None else dict(arguments.fields)

    with repeatable(arguments.file) as path:
        try:
            result = push(path, arguments.file, arguments.resume, arguments.again, fields)
        except AlreadyPushed as known:
            if not may_push_again(known, path, arguments.file):
                print("Nothing was pushed")
                return console.EXIT_FAILURE
            result = push(path, arguments.file, resume=False, again=True, fields=fields)
    if arguments.resume and result.existing:
        print(f"{result.existing} tokens were in the pool already")
    print(f"Pushed {result.pushed} tokens: {result.ids()}")
    if result.refused:
        print(f"The server refused {result.refused} tokens", file=sys.stderr)
    return console.EXIT_FAILURE if result.refused else 0


def push(path: Path, name: str, resume: bool, again: bool, fields: Optional[dict[str, Any]]) -> Pushed:
    client = connect(max_outage=0)
    try:
        return push_file(client, path, resume, console.ProgressBar(PROGRESS_MINIMUM), fields, again)
    except (InputError, AlreadyPushed):
        raise
    except (Exception, KeyboardInterrupt):
        tell(f"The push did not finish. To push the rest: pushTokens.py --resume {name}")
        raise


def may_push_again(known: AlreadyPushed, path: Path, name: str) -> bool:
    """Ask a person at a terminal; without one, end with an error."""
    what = str(known) if known.is_finished else f"{known} (--resume finishes it)"
    if not sys.stdin.isatty():
        raise PushError(f"{what}; --again pushes it once more")
    return console.confirm(f"{what.replace(str(path), name)}. Push it once more?")


if __name__ == "__main__":
    console.run(main)
