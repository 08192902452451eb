"""Start pilots on a Slurm cluster when tokens wait: compare the pool with the queue, and submit the missing pilots.

This is done once, for cron or scrontab, or repeatedly with --stay. autopilot.ini says which pilots to start for which
tokens.
"""

import argparse
from pathlib import Path

from picas import connect, console
from picas.autopilot import Autopilot, read_table
from picas.schedulers import Slurm
from picas.util import visible

TABLE = Path(__file__).resolve().parent / "autopilot.ini"


def main() -> int:
    parser = console.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="?", type=Path, default=TABLE, help="the table (default: autopilot.ini)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted, and submit nothing")
    parser.add_argument(
        "--stay",
        nargs="?",
        type=seconds,
        const=60.0,
        metavar="SECONDS",
        help="repeat this after SECONDS seconds (default: 60)",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log progress; -vv: every detail")
    arguments = parser.parse_args()
    console.log_to_stderr(arguments.verbose)

    classes = read_table(arguments.table)
    client = connect(max_outage=0 if arguments.stay is None else None)  # cron calls this again
    autopilot = Autopilot(client, classes, Slurm(), arguments.dry_run, lambda line: print(visible(line), flush=True))
    if arguments.stay is not None:
        autopilot.stay(arguments.stay)
    return 0 if autopilot.look() else console.EXIT_FAILURE


def seconds(text: str) -> float:
    """Convert an argument to a time in seconds."""
    value = float(text)
    if not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is less than a second")
    return value


if __name__ == "__main__":
    console.run(main)
