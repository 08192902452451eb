"""Verbs that help to start pilots: `autopilot` and `sandbox`."""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from pathlib import Path
from typing import Any

from couchdb.http import HTTPError

from .. import config, console, sandbox
from ..autopilot import Autopilot, read_table
from ..exceptions import PicasError
from ..schedulers import Slurm
from ..util import visible
from .arguments import add_verb, duration, settings_here
from .progress import wait_until_indexed

INTERVAL = 60.0
"""Seconds between two looks of the autopilot, by default."""
LEAST_INTERVAL = 1.0


def add_verbs(verbs: Any) -> None:
    """Add these verbs to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    autopilot = add_verb(
        verbs,
        "autopilot",
        lambda options: run_autopilot(options, settings_here()),
        help="start pilots on a Slurm cluster when tokens wait",
        description="Compare the pool with the queue of Slurm, and submit the pilots that are missing; once, for cron "
        "or scrontab, or repeatedly with --stay.",
    )
    autopilot.add_argument(
        "table", type=Path, metavar="TABLE", help="a table like autopilot.ini: which pilots to start"
    )
    add_autopilot_options(autopilot)

    archive = add_verb(
        verbs,
        "sandbox",
        _sandbox,
        help="build the archive that a pilot on the Grid unpacks",
        description="Build the archive for worker nodes that have only Python: picas and all packages that it imports.",
    )
    sandbox.add_arguments(archive)


def add_autopilot_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run_autopilot` to a parser."""
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted, and submit nothing")
    parser.add_argument(
        "--stay",
        nargs="?",
        type=_interval,
        const=INTERVAL,
        metavar="SECONDS",
        help="repeat this after SECONDS seconds (default: 60)",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log progress; -vv: every detail")


def _interval(text: str) -> float:
    seconds = duration(text)
    if not LEAST_INTERVAL <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is less than a second")
    return seconds


def run_autopilot(options: argparse.Namespace, settings: config.Settings | None = None) -> int:
    """Start the pilots that are missing, and return the exit code.

    :param options: `table`, the path of the table, and those of `add_autopilot_options`
    :param settings: how to reach the pool, by default what is found
    :raises PicasError, OSError: if the table is invalid or can't be read, or if the pool can't be reached
    """
    console.log_to_stderr(options.verbose)
    classes = read_table(options.table)
    client = console.connect(settings, max_outage=0 if options.stay is None else None)  # cron calls this again
    autopilot = Autopilot(client, classes, Slurm(), options.dry_run, _tell)
    for design_doc in {kind.design_doc for kind in classes}:
        with contextlib.suppress(PicasError, HTTPError):  # the look finds out, and says it
            wait_until_indexed(client, design_doc)
    if options.stay is not None:
        autopilot.stay(options.stay)
    return 0 if autopilot.look() else console.EXIT_FAILURE


def _tell(line: str) -> None:
    """Print a line of the autopilot with the time, which the mails of cron and log files lack."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), visible(line), flush=True)


def _sandbox(options: argparse.Namespace) -> None:
    try:
        print(sandbox.build_as(options))
    except sandbox.SandboxError as error:
        raise PicasError(str(error)) from None
