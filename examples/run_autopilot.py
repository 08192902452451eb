"""Start pilots on a Slurm cluster when tokens wait: compare the pool with the queue, and submit the missing pilots.

This is done once, for cron or scrontab, or repeatedly with --stay. autopilot.ini says which pilots to start for which
tokens.
"""

import sys
from pathlib import Path

try:
    from picas import console
    from picas.cli.starting import add_autopilot_options, run_autopilot
except ImportError as error:
    sys.exit(f"picas is not installed in {sys.executable} ({error}): activate its environment, or install it there")

TABLE = Path(__file__).resolve().parent / "autopilot.ini"


def main() -> int:
    parser = console.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="?", type=Path, default=TABLE, help="the table (default: autopilot.ini)")
    add_autopilot_options(parser)
    return run_autopilot(parser.parse_args())


if __name__ == "__main__":
    console.run(main)
