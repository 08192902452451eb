"""The options of pilots, which `picas run` and the script local-example.py share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import console
from ..tokens.resources import megabytes
from .arguments import duration, not_negative, positive


def _memory(text: str) -> str:
    """Check an argument that is an amount of memory, and return it."""
    if megabytes(text) is None:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of megabytes, or like "4G"')
    return text


RESOURCES = (
    ("cores", positive(int), "N", "processors"),
    ("memory", _memory, "MEGABYTES", 'memory, also with a unit, like "4G"'),
    ("gpus", not_negative, "N", "GPUs"),
    ("tags", str, "TAG,TAG", "other things that tokens may ask for"),
)
"""The resources of a pilot: the name of each, its type, what its value is called, and what it is."""


def add_pilot_options(parser: argparse.ArgumentParser, *, wait_for_locked: bool = False) -> None:
    """Add the options of a pilot to a parser.

    :param wait_for_locked: whether to wait for tokens of pilots that may have died, unless told otherwise
    """
    add = parser.add_argument
    add("--view", default="todo", help="the view from which tokens are taken (default: todo)")
    add("--design-doc", default="Monitor", help="the design document of the view (default: Monitor)")
    add("--max-tasks", type=positive(int), metavar="N", help="end after N tokens")
    seconds = positive(_seconds)
    add(
        "--max-token-time", type=seconds, metavar="SECONDS",
        help="stop the work on a token after this time, such as 90 or 2h",
    )  # fmt: skip
    add("--max-total-time", type=seconds, metavar="SECONDS", help="start no token after this time, such as 90 or 2h")
    add("--max-scrub", type=positive(int), default=0, metavar="N", help="retry a failed token N times")
    add(
        "--retry-delay", type=seconds, default=0, metavar="SECONDS",
        help="wait this long before a retry, twice as long after each further failure",
    )  # fmt: skip
    add(
        "--max-failures", type=not_negative, metavar="N",
        help="end after N failed tokens in a row, 0: never (default: after 20, if none has succeeded yet)",
    )  # fmt: skip
    add(
        "--wait-for-locked", action=argparse.BooleanOptionalAction if wait_for_locked else "store_true",
        default=wait_for_locked,
        help="if all tokens that are left are locked by pilots that may have died, wait until that is known",
    )  # fmt: skip
    add("--slots", type=_slots, default=1, metavar="N", help="work on N tokens at a time; auto: one for each processor")
    for name, kind, metavar, what in RESOURCES:
        add(f"--{name}", type=kind, metavar=metavar, help=f"take no token that needs more than this: {what}")
    add(
        "--scratch", type=_existing_folder, metavar="FOLDER",
        help="give each token a working directory of its own in this folder",
    )  # fmt: skip
    add(
        "--pass-settings", action="store_true",
        help="give the tasks the password of the pool, if they use it themselves",
    )  # fmt: skip
    add("-v", "--verbose", action="count", default=0, help="log progress; -vv: every detail")


def prepare_log(options: argparse.Namespace) -> None:
    """Show the log on standard error, as much of it as the options say."""
    console.log_to_stderr(options.verbose)


def actor_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `CommandActor` that the options name, but for the view."""
    return {
        "scratch": options.scratch,
        "pass_settings": options.pass_settings,
        **{name: getattr(options, name) for name, *_ in RESOURCES},
    }


def run_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `RunActor.run` that the options name."""
    return {
        "max_token_time": options.max_token_time,
        "max_total_time": options.max_total_time,
        "max_tasks": options.max_tasks,
        "max_scrub": options.max_scrub,
        "retry_delay": options.retry_delay,
        "slots": options.slots,
        "max_failures": options.max_failures,
        "wait_for_locked": options.wait_for_locked,
    }


def _seconds(text: str) -> float:
    """Convert an argument to seconds: a number, or a duration like "2h"."""
    try:
        return float(text)
    except ValueError:
        return duration(text)


def _existing_folder(text: str) -> Path:
    """Convert an argument to the path of a folder."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return Path(text).resolve()


def _slots(text: str) -> Any:
    """Convert an argument to a number of slots."""
    return text if text == "auto" else positive(int)(text)
