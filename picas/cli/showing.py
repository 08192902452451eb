"""The verb `show`: all that a token holds."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from ..pool.facts import TOKEN, Attachment, Facts, PastAttempt, TokenError, describe_token, find_token
from ..util import duration_text, one_line, visible
from . import output
from .arguments import add_json, add_verb, connect

COLUMNS = {
    "#": "number",
    "start": "start",
    "s": "seconds",
    "cpu s": "cpu_seconds",
    "MB": "max_memory_mb",
    "cores": "cores",
    "host": "host",
    "job": "job_id",
    "outcome": "outcome",
    "exit": "exit_code",
    "reason": "reason",
}
"""The columns of the table of attempts, and the fields of the JSON that they show."""
_NUMBERS = ("#", "s", "cpu s", "MB", "cores", "exit")
_LESS_NEEDED = ("job", "host", "cores", "cpu s", "MB")
"""The columns that a narrow terminal does without, in this order."""
_NARROW = 50
"""At a terminal with fewer columns than this there is no room for `start` beside a reason."""
_REASON = 20  # characters of the reason that are worth a column
_LONGEST_NAME = 24  # characters of a field's name that make the column of the names wider
_KILO = 1000
_UNITS = ("B", "kB", "MB", "GB")


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    show = add_verb(
        verbs,
        "show",
        _show,
        help="show a token: its state, its fields, its errors and its attempts",
        description="Show all that a token holds: its state, its needs, its fields, its attachments, its errors with "
        "the last one first, and its attempts with the last one last. Long lines are cut at a terminal.",
    )
    show.add_argument("token", metavar="TOKEN", help="the id of the token")
    add_json(show)


def _show(options: argparse.Namespace) -> None:
    facts = describe_token(find_token(connect(), options.token))
    if options.json:
        output.print_json("show", to_json(facts))
        return
    width = shutil.get_terminal_size().columns if output.is_terminal() else None
    for line in describe(facts, width):
        text = output.fit_line(line.text)
        print(output.bold(text) if line.is_heading else text)


# --- for people


class Line(NamedTuple):
    """A line for people, without control characters."""

    text: str
    is_heading: bool = False


def describe(facts: Facts, width: int | None = None) -> Iterator[Line]:
    """Yield the lines about a token.

    :param width: how wide the table of the attempts may be, None for any width
    """
    yield from map(Line, _lines(facts))
    if facts.attachments:
        yield Line("attachments", True)
    for attachment in facts.attachments:
        yield Line(f"  {_describe_attachment(attachment)}")
    if facts.errors:
        yield Line("errors", True)
    for error in facts.errors:
        yield from map(Line, _describe_error(error))
    if facts.attempts:
        dropped = ": only the last ones are kept" if facts.may_have_more_attempts else ""
        yield Line(f"attempts{dropped}", True)
        headings, *lines = _attempt_lines(facts.attempts, width)
        yield Line(headings, True)
        yield from map(Line, lines)


def _lines(facts: Facts) -> Iterator[str]:
    """Yield a line for each thing that is known, the names in a column of their own."""
    known = [(name, text) for name, text in _pairs(facts) if text is not None]
    pairs = [*known, *((one_line(name), _value(value) or "null") for name, value in facts.fields.items())]
    width = min(max(len(name) for name, _ in pairs), _LONGEST_NAME)
    for name, text in pairs:
        yield f"{name:{width}}{output.GAP}{text}".rstrip()


def _pairs(facts: Facts) -> Iterator[tuple[str, str | None]]:
    yield "id", one_line(facts.id)
    if facts.type == TOKEN:
        since = output.local_time(facts.since)
        yield (
            "state",
            (facts.state or "none: lock or done is missing or invalid") + (f" since {since}" if since else ""),
        )
        yield "needs", one_line(facts.needs)
    else:
        yield "type", f"{one_line(facts.type or 'none')}: this is no token"
    if facts.lock is not None:
        holder = facts.lock.pilot or "a client of an older release"
        job = f", job {facts.lock.job_id}" if facts.lock.job_id else ""
        yield "locked by", one_line(f"{holder} on {facts.lock.host or 'an unknown host'}{job}")
    yield "walltime", None if facts.walltime is None else duration_text(facts.walltime)
    yield "time left", None if facts.time_had is None else f"{duration_text(facts.time_needed)}, after earlier attempts"
    yield "priority", _number(facts.priority)
    yield "not before", output.local_time(facts.not_before)
    yield "exit code", None if facts.exit_code is None else one_line(facts.exit_code)
    yield "failures", _number(facts.scrub_count or None)
    yield "lost pilots", _number(facts.lost_count or None)
    yield "input", _value(facts.input)
    yield "output", _value(facts.output)
    yield "uploads", _value(facts.uploads) if facts.uploads else None


def _value(value: Any) -> str | None:
    """Return a text for a value of JSON on one line; None for a field that is missing or null."""
    if value is None:
        return None
    text = visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text.replace("\n", "\\n").replace("\t", "\\t")  # its spaces stay: they may matter to a command


def _number(number: float | None) -> str | None:
    return None if number is None else f"{number:g}"


def _describe_attachment(attachment: Attachment) -> str:
    size = "size unknown" if attachment.size is None else _size(attachment.size)
    return output.GAP.join(one_line(part) for part in (attachment.name, size, attachment.content_type or "") if part)


def _size(size: float) -> str:
    """Return a number of bytes for people: "12 B", "1.5 kB", "3.0 MB"."""
    power = 0
    while size >= _KILO and power < len(_UNITS) - 1:
        size, power = size / _KILO, power + 1
    return f"{size:.{min(power, 1)}f} {_UNITS[power]}"


def _describe_error(error: TokenError) -> Iterator[str]:
    yield f"  {output.local_time(error.time) or 'at an unknown time'}  {one_line(error.message or 'no message')}"
    for line in (error.traceback or "").splitlines():
        yield f"    {visible(line)}"


def _attempt_lines(attempts: Sequence[PastAttempt], width: int | None) -> list[str]:
    """Return the lines of the table of attempts."""
    rows = [_row(attempt) for attempt in attempts]
    columns = [name for name in COLUMNS if any(row[name] is not None for row in rows)]
    if width is not None:
        columns = _fitting(columns, rows, width)
    cells = [[row[name] for name in columns] for row in rows]
    return output.table_lines(columns, cells, _NUMBERS, ["start", "outcome"], width)


def _row(attempt: PastAttempt) -> dict[str, object]:
    """Return what stands in the columns for an attempt."""
    row = {name: getattr(attempt, field) for name, field in COLUMNS.items()}
    row["start"] = output.local_time(attempt.start)
    for name in ("s", "cpu s", "MB"):
        row[name] = None if row[name] is None else f"{row[name]:.1f}"
    return row


def _fitting(columns: list[str], rows: Sequence[dict[str, object]], width: int) -> list[str]:
    """Return the columns that a terminal has room for, without those that are less needed."""
    fitting = list(columns)
    for name in _LESS_NEEDED:
        if _width(fitting, rows) <= width:
            break
        fitting = [column for column in fitting if column != name]
    return [column for column in fitting if column != "start" or width >= _NARROW]


def _width(columns: Iterable[str], rows: Sequence[dict[str, object]]) -> int:
    """Return how wide a table is whose reasons are cut."""
    width = 0
    for name in columns:
        widest = max(len(name), *(len(one_line(row[name] or "-")) for row in rows))
        width += len(output.GAP) + (min(widest, _REASON) if name == "reason" else widest)
    return width - len(output.GAP)


# --- for programs


def to_json(facts: Facts) -> dict[str, Any]:
    """Return the fields of a token for programs."""
    lock = facts.lock
    return {
        "id": facts.id,
        "rev": facts.rev,
        "type": facts.type,
        "state": facts.state,
        "since": output.json_time(facts.since),
        "needs": {
            "cores": facts.needs.cores,
            "memory_mb": facts.needs.memory,
            "gpus": facts.needs.gpus,
            "tags": sorted(facts.needs.tags),
            "walltime_seconds": facts.walltime,
            "longest_attempt_seconds": facts.time_had,
        },
        "priority": facts.priority,
        "not_before": output.json_time(facts.not_before),
        "locked_by": None
        if lock is None
        else {"pilot": lock.pilot, "host": lock.host, "job_id": lock.job_id, "since": output.json_time(lock.since)},
        "exit_code": facts.exit_code,
        "scrub_count": facts.scrub_count,
        "lost_count": facts.lost_count,
        "input": facts.input,
        "output": facts.output,
        "uploads": facts.uploads,
        "fields": facts.fields,
        "attachments": [
            {"name": each.name, "size_bytes": each.size, "content_type": each.content_type}
            for each in facts.attachments
        ],
        "errors": [
            {"time": output.json_time(each.time), "message": each.message, "traceback": each.traceback}
            for each in facts.errors
        ],
        "attempts": [
            {**asdict(each), "start": output.json_time(each.start), "end": output.json_time(each.end)}
            for each in facts.attempts
        ],
    }
