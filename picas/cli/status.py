"""The verb `status`: a pool at a glance, once or again and again."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from typing import Any

from couchdb.http import HTTPError, ResourceNotFound

from .. import console
from ..couch.outages import is_outage
from ..exceptions import PicasError
from ..pilot.kinds import InvalidNeeds, Kind, NeedsSurvey
from ..pilot.overview import Documents, Overview, OverviewReader
from ..pool.failures import FailureGroup
from ..pool.progress import rough_duration
from ..tokens.reasons import shortened
from ..util import one_line, visible
from ..views import DESIGN_DOC, OVERVIEW
from .arguments import add_json, add_verb, connect, duration
from .output import bold, fit_line, json_time, local_time, number_of, print_json, tell
from .progress import IndexNotice
from .screen import Screen

MAX_KINDS = 10
"""The number of kinds of tokens without a pilot that are listed."""
INTERVAL = 2.0
"""Seconds between two looks at the counts with `--watch`: the default, and the least."""
DETAILS_INTERVAL = 20.0
"""Seconds between two looks at all the rest. Both together send less than one request a second."""
ERRORS = "errors"
WITHOUT_PILOT = "No running pilot has what these tokens in todo need:"
_HEADINGS = (ERRORS, WITHOUT_PILOT)


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    parser = add_verb(
        verbs,
        "status",
        _status,
        help="count the tokens in each state, and show the progress",
        description="Count the tokens in each state. Show how many come to their end and how long the rest will take, "
        "the pilots, why tokens have failed, and which tokens no running pilot can take. With --watch, the exit code "
        f"is {console.EXIT_IN_ERROR} if tokens are in error at the end.",
    )
    parser.add_argument(
        "design_doc",
        nargs="?",
        default=DESIGN_DOC,
        metavar="DESIGN_DOC",
        help="the design document whose tokens to count (default: Monitor). With another one, only what belongs to it "
        "is shown",
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_interval,
        const=INTERVAL,
        metavar="SECONDS",
        help=f"show it again and again until no token is todo or locked (default: every {INTERVAL:g} s)",
    )
    add_json(parser, "an object of JSON; with --watch, one after the other")


def _interval(text: str) -> float:
    seconds = duration(text)
    if seconds < INTERVAL:
        raise argparse.ArgumentTypeError(f"{text} s is too often: the least is {INTERVAL:g} s")
    return seconds


def _status(options: argparse.Namespace) -> int:
    client = connect()
    reader = OverviewReader(client, options.design_doc, IndexNotice())
    try:
        overview = reader.read()
        _name_what_lacks(overview)
        if options.watch is not None:
            return _watch(reader, overview, options)
    except ResourceNotFound:
        raise console.no_such_view(OVERVIEW, options.design_doc, client) from None
    if options.json:
        print_json("status", to_json(overview, options.design_doc))
    else:
        for line in describe(overview):
            print(paint(line))
    return 0


def _name_what_lacks(overview: Overview) -> None:
    """Say that there is no design document Report, if there would be something to show."""
    if (
        overview.fleet is not None
        and overview.failures is None
        and (overview.counts["error"] or overview.fleet.running)
    ):
        tell(console.no_report("neither the rate nor the reasons of failures are shown"))


def _watch(reader: OverviewReader, overview: Overview, options: argparse.Namespace) -> int:
    """Show an overview again and again until no token is left, and return the exit code."""
    screen, details = Screen(paint), time.monotonic()
    away: float | None = None  # since when, in seconds since the epoch
    while True:
        if options.json:
            print_json("status", to_json(overview, options.design_doc))
        else:
            screen.show([*describe(overview), *([] if away is None else [f"server away since {local_time(away)}"])])
        if away is None and not overview.tokens_left:
            return console.EXIT_IN_ERROR if overview.counts["error"] else 0
        time.sleep(options.watch)
        try:
            overview = reader.refresh(overview)
            if time.monotonic() - details >= DETAILS_INTERVAL or not overview.tokens_left:
                overview, details = reader.read(), time.monotonic()
            away = None
        except (PicasError, HTTPError) as error:
            if not is_outage(error):
                raise
            away = time.time() if away is None else away


def describe(overview: Overview) -> list[str]:
    """Return the lines for people about a pool. What is zero or unknown has none, except for the counts."""
    lines = [f"{state} {count}" for state, count in overview.counts.items()]
    lines += describe_pause(overview)
    lines += describe_rate(overview)
    lines += describe_fleet(overview)
    lines += _describe_failures(overview)
    lines += _describe_no_state(overview.no_state)
    lines += _describe_tasks(overview.tasks)
    lines += _describe_conflicts(overview.conflicts)
    lines += _describe_invalid(overview.needs.invalid)
    lines += _describe_kinds(overview.needs)
    return [visible(line) for line in lines]


def paint(line: str) -> str:
    """Return a line as it is shown: headings in bold, where there are colours."""
    return bold(line) if line in _HEADINGS else line


def describe_pause(overview: Overview) -> Iterator[str]:
    """Yield a line that says by whom, since when and why the pool is paused, if it is."""
    pause = overview.pause
    if pause is not None:
        by = f" by {one_line(pause.by)}" if pause.by else ""
        since = f" since {local_time(pause.time, to_the_minute=True)}" if pause.time else ""
        yield f"paused{by}{since}" + (f": {one_line(pause.message)}" if pause.message else "")


def describe_rate(overview: Overview) -> Iterator[str]:
    """Yield a line about the rate and the time that is left, if they are known."""
    if overview.rate is not None:
        rate, left = overview.rate.per_minute, overview.seconds_left
        number = f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
        about = "" if left is None else f", about {rough_duration(left)} to go"
        yield f"rate {number}/min over the last {overview.rate.seconds / 60:.0f} min{about}"


def describe_fleet(overview: Overview) -> Iterator[str]:
    """Yield a line about the pilots, if there are any."""
    fleet = overview.fleet
    if fleet is not None and (fleet.running or fleet.silent):
        parts = [f"{fleet.running} running"] if fleet.running else []
        parts += [f"{fleet.slots_busy} of {number_of(fleet.slots, 'slot')} busy"] if fleet.slots else []
        parts += [f"{fleet.silent} silent"] if fleet.silent else []
        yield f"pilots {', '.join(parts)}"


def _describe_failures(overview: Overview) -> Iterator[str]:
    failures = overview.failures
    if failures is None or not failures.groups:
        return
    yield ERRORS
    width = max(len(str(group.count)) for group in failures.groups)
    for group in failures.groups:
        line = f"  {group.count:>{width}}  {group.group or '-':<5}  {reason_text(group)}"
        yield fit_line(line)
    if failures.other_groups:
        yield f"  and {failures.other_tokens} in {number_of(failures.other_groups, 'other group')}"


def reason_text(group: FailureGroup) -> str:
    """Return the reason of an example of a group, on one line."""
    return "no reason known" if group.example.reason is None else one_line(group.example.reason)


def _describe_no_state(documents: Documents) -> Iterator[str]:
    if documents.count:
        what, them = ("1 token is", "it") if documents.count == 1 else (f"{documents.count} tokens are", "them")
        yield (
            f"{what} in no state, because lock or done is missing or invalid, so no pilot takes {them}: "
            f"{_list(documents)}"
        )


def _describe_tasks(documents: Documents) -> Iterator[str]:
    if documents.count:
        what, them = ("1 document has", "it") if documents.count == 1 else (f"{documents.count} documents have", "them")
        yield f'{what} the type "task" instead of "token", so no pilot takes {them}: {_list(documents)}'


def _describe_conflicts(documents: Documents) -> Iterator[str]:
    if documents.count:
        what = "1 token has" if documents.count == 1 else f"{documents.count} tokens have"
        yield f"{what} conflicting revisions, of which pilots see one: {_list(documents)}"


def _list(documents: Documents) -> str:
    """Return the first ids, and how many there are besides."""
    more = documents.count - len(documents.ids)
    return ", ".join(map(one_line, documents.ids)) + (f" and {more} others" if more > 0 else "")


def _describe_invalid(invalid: InvalidNeeds | None) -> Iterator[str]:
    if invalid is not None:
        one, more = "1 token in todo has an invalid need", f"{invalid.count} tokens in todo have invalid needs"
        example = "" if invalid.token is None else f", e.g. {one_line(invalid.token)}"
        yield f"{one if invalid.count == 1 else more}, which pilots ignore{example}: {invalid.fault}"


def _describe_kinds(needs: NeedsSurvey) -> Iterator[str]:
    kinds = needs.without_pilot
    if kinds:
        yield WITHOUT_PILOT
    for kind in kinds[:MAX_KINDS]:
        yield f"  {shortened(kind)}"
    if len(kinds) > MAX_KINDS:
        at_least = "" if needs.is_complete else "at least "
        yield f"  and {at_least}{sum(kind.count for kind in kinds[MAX_KINDS:])} others"


def to_json(overview: Overview, design_doc: str) -> Mapping[str, Any]:
    """Return the fields of an overview for programs."""
    rate, fleet, failures, pause = overview.rate, overview.fleet, overview.failures, overview.pause
    return {
        "design_doc": design_doc,
        **{state: overview.counts[state] for state in ("todo", "locked", "done", "error")},
        "paused": pause and {"by": pause.by, "since": json_time(pause.time or None), "message": pause.message},
        "ended_per_minute": rate and rate.per_minute,
        "window_seconds": rate and rate.seconds,
        "seconds_left": overview.seconds_left,
        "pilots_running": fleet and fleet.running,
        "pilots_silent": fleet and fleet.silent,
        "slots": fleet and fleet.slots,
        "slots_busy": fleet and fleet.slots_busy,
        "errors": failures and [failure_json(group) for group in failures.groups],
        "in_other_errors": failures and failures.other_tokens,
        "in_no_state": overview.no_state.count,
        "of_type_task": overview.tasks.count,
        "in_conflict": overview.conflicts.count,
        "invalid_needs": _invalid_json(overview.needs.invalid),
        "without_pilot": [_kind_json(kind) for kind in overview.needs.without_pilot],
    }


def failure_json(group: FailureGroup) -> dict[str, Any]:
    """Return the fields of a group of failures for programs."""
    return {
        "count": group.count,
        "group": group.group or None,
        "reason": group.example.reason,
        "token": group.example.token,
    }


def _invalid_json(invalid: InvalidNeeds | None) -> dict[str, Any] | None:
    return None if invalid is None else {"count": invalid.count, "fault": invalid.fault, "token": invalid.token}


def _kind_json(kind: Kind) -> dict[str, Any]:
    return {
        "count": kind.count,
        "cores": kind.needs.cores,
        "memory_mb": kind.needs.memory or None,
        "gpus": kind.needs.gpus,
        "tags": sorted(kind.needs.tags),
        "walltime_seconds": kind.walltime,
        "longest_attempt_seconds": kind.time_had,
    }
