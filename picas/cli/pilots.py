"""The verb `pilots`: the pilots of the pool, what they do, and how long they will."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from typing import Any, Callable

from ..pilot.fleet import MAX_ENDED, PilotSummary, ended_pilots, list_pilots
from ..util import duration_text
from .arguments import add_json, add_verb, connect
from .output import GAP, is_terminal, json_time, local_time, print_json, print_table, tell

NUMBERS = ("slots", "time left", "done", "failed")
"""The columns that are aligned on the right."""
_DROPPED = ("host", "job", "time left", "done", "failed")
"""The columns that a terminal shows only if it is wide enough; the first ones need the widest. The id of a pilot names
its host too."""


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    parser = add_verb(
        verbs,
        "pilots",
        _pilots,
        help="list the pilots that run",
        description="List the pilots that run: their slots that are busy, the time that is left to them, and how many "
        "attempts on tokens have succeeded and failed. A pilot that has missed some heartbeats is silent.",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"also those that were found dead, and those that have ended lately (the newest {MAX_ENDED})",
    )
    add_json(parser, "JSON lines, one for each pilot")


def _pilots(options: argparse.Namespace) -> None:
    client, now = connect(), time.time()
    found = list_pilots(client)
    if options.all:
        ended = ended_pilots(client, MAX_ENDED + 1)
        found = sorted([*found, *ended[:MAX_ENDED]], key=lambda pilot: pilot.id)
        if len(ended) > MAX_ENDED:
            tell(f"of the pilots that have ended, only the newest {MAX_ENDED} are listed")
    else:
        found = [pilot for pilot in found if pilot.is_running]
    if options.json:
        for pilot in found:
            print_json("pilots", to_json(pilot, now))
        return
    shown = table(found, now, shutil.get_terminal_size().columns if is_terminal() else None, with_ended=options.all)
    otherwise = "there are no pilots" if options.all else "no pilot is running"
    print_table(list(shown), list(zip(*shown.values())), right=NUMBERS, otherwise=otherwise)


def table(
    found: Sequence[PilotSummary], now: float, width: int | None, *, with_ended: bool = False
) -> dict[str, list[object]]:
    """Return the cells of the columns of a table of pilots, by the headings.

    :param found: the pilots
    :param now: the time, in seconds since the epoch
    :param width: how wide the table may be, in characters; None for any width
    :param with_ended: whether some of the pilots may have ended
    """
    shown = {
        name: [cell(pilot, now) for pilot in found]
        for name, cell in COLUMNS.items()
        if with_ended or name not in ("state", "end")
    }
    if not any(shown["silent since"]):
        del shown["silent since"]
    if width is not None:
        _drop_columns(shown, width)
    return shown


def _drop_columns(shown: dict[str, list[object]], room: int) -> None:
    """Remove columns until a table fits, or only those are left that are always shown.

    :param shown: the cells of each column
    :param room: the width of the terminal, in characters
    """
    for name in _DROPPED:
        widths = [max(len(str(cell)) for cell in [heading, *cells]) for heading, cells in shown.items()]
        if sum(widths) + len(GAP) * (len(widths) - 1) > room:
            del shown[name]


def _slots(pilot: PilotSummary) -> str | None:
    if pilot.slots is None:
        return None
    return f"{pilot.slots}" if pilot.slots_busy is None else f"{pilot.slots_busy} of {pilot.slots}"


def _time_left(pilot: PilotSummary, now: float) -> str | None:
    if pilot.times.left is None or pilot.silent_since(now) is not None:
        return None
    return duration_text(pilot.times.left)


COLUMNS: dict[str, Callable[[PilotSummary, float], object]] = {
    "id": lambda pilot, now: pilot.id,
    "state": lambda pilot, now: pilot.state,
    "host": lambda pilot, now: pilot.host,
    "job": lambda pilot, now: pilot.job_id,
    "slots": lambda pilot, now: _slots(pilot),
    "time left": _time_left,
    "done": lambda pilot, now: pilot.done,
    "failed": lambda pilot, now: pilot.failed,
    "silent since": lambda pilot, now: local_time(pilot.silent_since(now)),
    "end": lambda pilot, now: local_time(pilot.times.end),
}
"""What is in a column of the table, by its heading."""


def to_json(pilot: PilotSummary, now: float) -> dict[str, Any]:
    """Return the fields of a pilot for programs.

    :param now: the time, in seconds since the epoch
    """
    return {
        "id": pilot.id,
        "state": pilot.state,
        "host": pilot.host,
        "job_id": pilot.job_id,
        "version": pilot.version,
        "slots": pilot.slots,
        "slots_busy": pilot.slots_busy,
        "time_left_seconds": pilot.times.left,
        "done": pilot.done,
        "failed": pilot.failed,
        "start": json_time(pilot.times.start),
        "saved": json_time(pilot.times.saved),
        "silent_since": json_time(pilot.silent_since(now)),
        "end": json_time(pilot.times.end),
        "busy_seconds": pilot.busy_seconds,
        "idle_seconds": pilot.idle_seconds,
    }
