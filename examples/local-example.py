"""Process the tokens of the pool, one after the other or several at a time, until there is no work left.

For each token process_task.sh is run with the token's input and id. Its exit code and its output are kept in the token.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any, Optional

from couchdb.http import ResourceNotFound

from picas import RunActor, console
from picas.actors import outcomes
from picas.executers import run_command

PROCESS_TASK = Path(__file__).resolve().parent / "process_task.sh"
LINE = "-----------------------"
UNSHOWN = ("_id", "_rev", "_attachments", "claim", "attempts")


class ExampleActor(RunActor):
    """Runs process_task.sh for each token.

    :param scratch: a folder in which each token gets one of its own to work in, which is gone afterwards; without it
        all work in the pilot's working directory
    """

    def __init__(self, *arguments: Any, scratch: Optional[Path] = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.scratch = scratch

    def process_task(self, token: Any) -> None:
        shown = ["_id", "_rev", *(key for key in token if key not in UNSHOWN)]
        fields = [f"{key} {token[key]}" for key in shown]
        # In one piece: with --slots several tokens are shown at a time.
        print("\n".join([LINE, f"Working on token: {token.id}", *fields, LINE]), flush=True)

        with tempfile.TemporaryDirectory(prefix="picas-", dir=self.scratch) as folder:
            out, err, work = Path(folder, "out"), Path(folder, "err"), Path(folder, "work")
            results, uploads = Path(folder, "results"), Path(folder, "uploads")
            work.mkdir()
            results.mkdir()
            try:
                result = run_command(
                    ["bash", str(PROCESS_TASK), str(token["input"]), token.id],
                    stdout=out,
                    stderr=err,
                    cwd=work if self.scratch else None,
                    env={"PICAS_RESULTS": str(results), "PICAS_UPLOADS": str(uploads)},
                    token=token,
                )
                token["exit_code"] = result.exit_code
            finally:  # also if the time is up or the pilot is stopped: the logs and the uploads so far
                for path in (out, err):
                    if path.exists():
                        token.put_log(f"logs_{token.id}.{path.name}", path)
                if uploads.exists():
                    lines = uploads.read_text(encoding="utf-8", errors="replace").splitlines()
                    token["uploads"] = dict(line.partition("\t")[::2] for line in lines)


def main() -> None:
    parser = console.ArgumentParser(description=__doc__)
    parser.add_argument("--view", default="todo", help="view that tokens are taken from (default: todo)")
    parser.add_argument("--design-doc", default="Monitor", help="design document of the view (default: Monitor)")
    parser.add_argument("--max-tasks", type=positive(int), metavar="N", help="end after so many tokens")
    parser.add_argument("--max-token-time", type=positive(float), metavar="SECONDS", help="end the work on a token")
    parser.add_argument("--max-total-time", type=positive(float), metavar="SECONDS", help="start no token after this")
    parser.add_argument(
        "--max-scrub", type=positive(int), default=0, metavar="N", help="try a failed token again N times"
    )
    parser.add_argument(
        "--retry-delay", type=positive(float), default=0, metavar="SECONDS",
        help="wait so long before that, twice as long after each further failure",
    )  # fmt: skip
    parser.add_argument(
        "--slots", type=slots, default=1, metavar="N", help="work on N tokens at a time; auto: one for each processor"
    )
    for name, metavar, what in (
        ("cores", "N", "processors"),
        ("memory", "MEGABYTES", 'memory, also like "4G"'),
        ("gpus", "N", "GPUs"),
        ("tags", "TAG,TAG", "what else tokens may ask for"),
    ):
        parser.add_argument(f"--{name}", metavar=metavar, help=f"take no token that needs more than this: {what}")
    parser.add_argument(
        "--scratch", type=existing_folder, metavar="FOLDER", help="work on each token in a folder of its own in there"
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say what goes on; -vv: every detail")
    arguments = parser.parse_args()
    console.log_to_stderr(arguments.verbose)

    actor = ExampleActor(
        console.connect(),
        view=arguments.view,
        design_doc=arguments.design_doc,
        scratch=arguments.scratch,
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
        )
    except ResourceNotFound:
        raise console.no_such_view(arguments.view, arguments.design_doc) from None
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes(actor).items()))
    print(f"Processed {actor.tasks_processed} tokens" + (f": {counts}" if counts else ""))


def positive(kind: Any) -> Any:
    """Return a type for argparse: a number above 0."""

    def number(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return number


def existing_folder(text: str) -> Path:
    """Return the folder that an argument names."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return Path(text).resolve()


def slots(text: str) -> Any:
    """Return the number of slots that an argument says."""
    return text if text == "auto" else positive(int)(text)


if __name__ == "__main__":
    console.run(main)
