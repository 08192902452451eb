"""Process the tokens of the pool, one or several at a time, until there is no work left.

For each token, this runs process_task.sh with the token's input and id, and keeps its exit code and its output in the
token.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

try:
    from couchdb.http import ResourceNotFound

    from picas import config, connect, console
    from picas.actors import CommandActor, on_end, summary
    from picas.cli.job_output import announce_job, print_end
    from picas.cli.pilot_options import actor_options, add_pilot_options, prepare_log, run_options
    from picas.exceptions import PilotStopped, TooManyFailures
    from picas.executers import as_text, input_text
    from picas.util import visible
except ImportError as error:
    sys.exit(f"picas is not installed in {sys.executable} ({error}): activate its environment, or install it there")

PROCESS_TASK = Path(__file__).resolve().parent / "process_task.sh"
LINE = "-----------------------"
UNSHOWN = ("_id", "_rev", "_attachments", "claim", "attempts", "exit_code")


class ExampleActor(CommandActor):
    """Runs a program for each token, and prints the token."""

    is_terse = False
    """Whether no token is printed: a line says how each has ended."""

    def process_task(self, token: Any) -> None:
        with nullcontext() if self.is_terse else printed_block(token):
            super().process_task(token)


def command(token: Any) -> list[str]:
    """Return the program that is run for a token, and its arguments."""
    return ["bash", str(PROCESS_TASK), input_text(token), token.id]


@contextmanager
def printed_block(token: Any) -> Iterator[None]:
    """Print a token's fields when its work starts, and its exit code and a closing line when the work has ended.

    With several slots, the whole block is printed at the end in one piece, so that the blocks of tokens do not mix.
    """
    shown = ["_id", "_rev", *(key for key in token if key not in UNSHOWN)]
    lines = [LINE, f"Working on token: {token.id}", *(f"{key} {as_text(token[key])}" for key in shown)]
    if threading.current_thread() is threading.main_thread():  # the only slot
        print_lines(lines)
        lines = []
    try:
        yield
        lines.append(f"exit_code {token['exit_code']}")
    finally:
        print_lines([*lines, LINE])


def print_lines(lines: list[str]) -> None:
    print(visible("".join(f"{line}\n" for line in lines)), end="", flush=True)  # print writes its "end" separately


def main() -> None:
    parser = console.ArgumentParser(description=__doc__)
    add_pilot_options(parser)
    arguments = parser.parse_args()
    prepare_log(arguments)

    settings = config.load()
    is_in_job = announce_job(settings)
    client = connect(settings)
    actor = ExampleActor(
        client, command=command, view=arguments.view, design_doc=arguments.design_doc, **actor_options(arguments)
    )
    if is_in_job:
        on_end(actor, print_end)
        actor.is_terse = arguments.slots != 1
    try:
        actor.run(**run_options(arguments))
    except (PilotStopped, TooManyFailures):
        print(summary(actor))
        raise
    except ResourceNotFound:
        raise console.no_such_view(arguments.view, arguments.design_doc, client) from None
    print(summary(actor))


if __name__ == "__main__":
    console.run_pilot(main)
