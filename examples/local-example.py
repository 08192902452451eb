"""Process the tokens of the pool, one or several at a time, until there is no work left.

For each token, this runs process_task.sh with the token's input and id, and keeps its exit code and its output in the
token.
"""

import argparse
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from couchdb.http import ResourceNotFound

from picas import RunActor, connect, console
from picas.actors import summary
from picas.exceptions import TooManyFailures
from picas.executers import as_text, input_text, run_command
from picas.util import visible

PROCESS_TASK = Path(__file__).resolve().parent / "process_task.sh"
LINE = "-----------------------"
UNSHOWN = ("_id", "_rev", "_attachments", "claim", "attempts", "exit_code")


class ExampleActor(RunActor):
    """Runs process_task.sh for each token.

    :param scratch: a folder in which each token gets a working directory of its own, deleted afterwards; without it,
        all tokens share the pilot's working directory
    :param pass_settings: whether process_task.sh gets the password of the pool
    """

    def __init__(
        self, *arguments: Any, scratch: Optional[Path] = None, pass_settings: bool = False, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.scratch = scratch
        self.pass_settings = pass_settings

    def process_task(self, token: Any) -> None:
        with printed_block(token), tempfile.TemporaryDirectory(prefix="picas-", dir=self.scratch) as folder:
            out, err, work = Path(folder, "out"), Path(folder, "err"), Path(folder, "work")
            results, uploads = Path(folder, "results"), Path(folder, "uploads")
            results.mkdir()
            if self.scratch:
                work.mkdir()
            try:
                result = run_command(
                    ["bash", str(PROCESS_TASK), input_text(token), token.id],
                    stdout=out,
                    stderr=err,
                    cwd=work if self.scratch else None,
                    env={"PICAS_RESULTS": str(results), "PICAS_UPLOADS": str(uploads)},
                    token=token,
                    pass_settings=self.pass_settings,
                )
                token["exit_code"] = result.exit_code
            finally:  # after a time-out or a stop as well: keep the logs and the uploads so far
                for path in (out, err):
                    if path.exists():
                        token.put_log(f"logs_{token.id}.{path.name}", path)
                if uploads.exists():
                    lines = uploads.read_text(encoding="utf-8", errors="replace").splitlines()
                    token["uploads"] = dict(line.partition("\t")[::2] for line in lines)


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
    parser.add_argument("--view", default="todo", help="the view from which tokens are taken (default: todo)")
    parser.add_argument("--design-doc", default="Monitor", help="the design document of the view (default: Monitor)")
    parser.add_argument("--max-tasks", type=positive(int), metavar="N", help="end after N tokens")
    parser.add_argument(
        "--max-token-time", type=positive(float), metavar="SECONDS", help="stop the work on a token after this time"
    )
    parser.add_argument(
        "--max-total-time", type=positive(float), metavar="SECONDS", help="start no token after this time"
    )
    parser.add_argument("--max-scrub", type=positive(int), default=0, metavar="N", help="retry a failed token N times")
    parser.add_argument(
        "--retry-delay", type=positive(float), default=0, metavar="SECONDS",
        help="wait this long before a retry, twice as long after each further failure",
    )  # fmt: skip
    parser.add_argument(
        "--max-failures", type=not_negative, metavar="N",
        help="end after N failed tokens in a row, 0: never (default: after 20, if none has succeeded yet)",
    )  # fmt: skip
    parser.add_argument(
        "--wait-for-locked", action="store_true",
        help="if all tokens that are left are locked by pilots that may have died, wait until that is known",
    )  # fmt: skip
    parser.add_argument(
        "--slots", type=slots, default=1, metavar="N", help="work on N tokens at a time; auto: one for each processor"
    )
    for name, metavar, what in (
        ("cores", "N", "processors"),
        ("memory", "MEGABYTES", 'memory, also with a unit, like "4G"'),
        ("gpus", "N", "GPUs"),
        ("tags", "TAG,TAG", "other things that tokens may ask for"),
    ):
        parser.add_argument(f"--{name}", metavar=metavar, help=f"take no token that needs more than this: {what}")
    parser.add_argument(
        "--scratch", type=existing_folder, metavar="FOLDER",
        help="give each token a working directory of its own in this folder",
    )  # fmt: skip
    parser.add_argument(
        "--pass-settings", action="store_true",
        help="give the tasks the password of the pool, if they use it themselves",
    )  # fmt: skip
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log progress; -vv: every detail")
    arguments = parser.parse_args()
    console.log_to_stderr(arguments.verbose)

    client = connect()
    actor = ExampleActor(
        client,
        view=arguments.view,
        design_doc=arguments.design_doc,
        scratch=arguments.scratch,
        pass_settings=arguments.pass_settings,
        cores=arguments.cores,
        memory=arguments.memory,
        gpus=arguments.gpus,
        tags=arguments.tags,
    )
    try:
        actor.run(
            max_token_time=arguments.max_token_time,
            max_total_time=arguments.max_total_time,
            max_tasks=arguments.max_tasks,
            max_scrub=arguments.max_scrub,
            retry_delay=arguments.retry_delay,
            slots=arguments.slots,
            max_failures=arguments.max_failures,
            wait_for_locked=arguments.wait_for_locked,
        )
    except TooManyFailures:
        print(summary(actor))
        raise
    except ResourceNotFound:
        raise console.no_such_view(arguments.view, arguments.design_doc, client) from None
    print(summary(actor))


def positive(kind: Any) -> Any:
    """Return an argument type for a number above 0."""

    def number(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return number


def not_negative(text: str) -> int:
    """Convert an argument to a whole number, at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def existing_folder(text: str) -> Path:
    """Convert an argument to the path of a folder."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return Path(text).resolve()


def slots(text: str) -> Any:
    """Convert an argument to a number of slots."""
    return text if text == "auto" else positive(int)(text)


if __name__ == "__main__":
    console.run_pilot(main)
