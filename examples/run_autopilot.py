"""Start pilots on a Slurm cluster as tokens come: look at the pool and at the queue, and submit what is missing.

Once, for cron or scrontab, or again and again with --stay. What is started for which tokens is in autopilot.ini.
"""

import argparse
from pathlib import Path

from picas import console
from picas.autopilot import Autopilot, read_table
from picas.schedulers import Slurm

TABLE = Path(__file__).resolve().parent / "autopilot.ini"


def main() -> int:
    parser = console.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="?", type=Path, default=TABLE, help="the table (default: autopilot.ini)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be submitted")
    parser.add_argument(
        "--stay", nargs="?", type=seconds, const=60.0, metavar="SECONDS", help="look again after so long (default: 60)"
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say what goes on; -vv: every detail")
    arguments = parser.parse_args()
    console.log_to_stderr(arguments.verbose)

    classes = read_table(arguments.table)
    autopilot = Autopilot(console.connect(), classes, Slurm(), arguments.dry_run, lambda line: print(line, flush=True))
    if arguments.stay is not None:
        autopilot.stay(arguments.stay)
    return 0 if autopilot.look() else console.EXIT_FAILURE


def seconds(text: str) -> float:
    """Return the time that an argument says."""
    value = float(text)
    if not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is less than a second")
    return value


if __name__ == "__main__":
    console.run(main)
