"""Make a token for each line of a file: the line is the token's input. Blank lines and lines that begin with # are
skipped.

The tokens are called token_0, token_1 and so on; a number is never given twice, also if others push at the same time.
A push that was broken off is finished by pushing the same file again with --resume: what is in the pool already is not
pushed again. Without --resume the same file makes new tokens.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from picas import console
from picas.pushes import InputError, push_file, was_broken_off

LEAST_FOR_PROGRESS = 2000  # tokens; fewer are there at once


def main() -> None:
    parser = console.ArgumentParser(description=__doc__)
    parser.add_argument("file", metavar="FILE", help="a text file, or - for standard input")
    parser.add_argument("--resume", action="store_true", help="finish a push of the same file that was broken off")
    arguments = parser.parse_args()

    if arguments.file != "-":
        push(Path(arguments.file), arguments.file, arguments.resume)
        return
    with tempfile.TemporaryDirectory() as folder:  # a file can be read twice: to count, and to send
        path = Path(folder, "input")
        with path.open("wb") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        try:
            push(path, "-", arguments.resume)
        except InputError as error:
            raise InputError(str(error).replace(str(path), "standard input")) from None


def push(path: Path, name: str, resume: bool) -> None:
    client = console.connect()
    if not resume and was_broken_off(client, path):
        print(f"Note: an earlier push of {name} was not finished; --resume would finish it", file=sys.stderr)
    try:
        result = push_file(client, path, resume, console.ProgressBar(LEAST_FOR_PROGRESS))
    except InputError:
        raise
    except (Exception, KeyboardInterrupt):
        print(f"\nThe push was broken off. To push the rest: pushTokens.py --resume {name}", file=sys.stderr)
        raise
    if resume and result.existing:
        print(f"{result.existing} tokens were in the pool already")
    print(f"Pushed {result.pushed} tokens: {result.ids()}")


if __name__ == "__main__":
    console.run(main)
