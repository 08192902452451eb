"""What the verbs print: data to standard output as a table or as JSON, everything else to standard error.

Colours are for terminals only, and never used under `NO_COLOR` (see no-color.org). Text that comes from a token is
printed with its control characters escaped, since they could change what a terminal shows, or what it types.

The package rich knows how wide each character is, so Chinese text is aligned too. It is an extra; without it each
character counts as one.
"""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from .. import console
from ..util import one_line, visible

try:
    from rich import cells as wide
except ImportError:
    wide = None  # type: ignore[assignment]

GAP = "  "
"""What stands between two columns of a table."""
_MIN_WIDTH = 8  # characters that a column keeps when a table is made narrower
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def tell(line: str) -> None:
    """Print a line for people to standard error: a warning, progress, what was done."""
    console.ProgressBar.leave()
    print(visible(line), file=sys.stderr, flush=True)


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def has_colour() -> bool:
    """Return whether what is printed to standard output may be coloured."""
    return console.has_colour(sys.stdout)


def bold(text: str) -> str:
    """Return a text in bold, where there are colours."""
    return f"{_BOLD}{text}{_PLAIN}" if has_colour() else text


def fit_line(line: str) -> str:
    """Return a line cut to the width of the terminal; unchanged if standard output is none."""
    if not is_terminal():
        return line
    return cut(line, shutil.get_terminal_size().columns)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Collection[str] = (),
    whole: Collection[str] = (),
    otherwise: str = "",
) -> None:
    """Print a table: a line of headings, and a line for each row.

    At a terminal, the widest columns are cut so that each row fits on a line. Elsewhere nothing is cut.

    :param columns: the headings
    :param rows: see `table_lines`
    :param right: see `table_lines`
    :param whole: see `table_lines`
    :param otherwise: what to say on standard error if there is no row
    """
    width = shutil.get_terminal_size().columns if is_terminal() else None
    headings, *lines = table_lines(columns, rows, right, whole, width)
    if lines:
        print(bold(headings))
        for line in lines:
            print(line)
    elif otherwise:
        tell(otherwise)


def table_lines(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Collection[str] = (),
    whole: Collection[str] = (),
    width: int | None = None,
) -> list[str]:
    """Return the lines of a table: that of the headings, and one for each row, without control characters.

    :param columns: the headings
    :param rows: a value for each column; None is shown as "-"
    :param right: the headings of the columns that are aligned on the right, such as numbers
    :param whole: the headings of columns that are never cut, such as times
    :param width: how wide a line may be, None for any width. The widest columns are cut.
    """
    cells = [["-" if value is None else one_line(value) for value in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(columns, *cells)]
    if width is not None:
        widths = _fitted(widths, width - len(GAP) * (len(widths) - 1), [column in whole for column in columns])
    to_the_right = [column in right for column in columns]
    return [_line(line, widths, to_the_right) for line in [columns, *cells]]


def _fitted(widths: Sequence[int], room: int, is_whole: Sequence[bool]) -> list[int]:
    """Return the widths of columns so that they fit: the widest that may be cut is made narrower, again and again."""
    fitted = list(widths)
    while sum(fitted) > room:
        width, place = max(((0 if keep else width, place) for place, (width, keep) in enumerate(zip(fitted, is_whole))))
        if width <= _MIN_WIDTH:
            break
        fitted[place] -= 1
    return fitted


def _line(cells: Sequence[str], widths: Sequence[int], to_the_right: Sequence[bool]) -> str:
    """Return a line of a table, each cell with its width."""
    parts = []
    for cell, width, is_right in zip(cells, widths, to_the_right):
        shown = cut(cell, width)
        space = " " * (width - _width(shown))
        parts.append(space + shown if is_right else shown + space)
    return GAP.join(parts).rstrip()


def cut(text: str, width: int) -> str:
    """Return a text that is at most so wide at a terminal; one that was cut ends in "…"."""
    return text if _width(text) <= width else f"{_cut(text, width - 1)}…"


def _width(text: str) -> int:
    return len(text) if wide is None else wide.cell_len(text)


def _cut(text: str, width: int) -> str:
    return text[:width] if wide is None else wide.set_cell_size(text, width)


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a line of headings and a line for each row, as comma-separated values (RFC 4180).

    The values are printed as they are. At a terminal, control characters in them are shown escaped.
    """
    is_shown = is_terminal()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for row in itertools.chain([columns], rows):
        writer.writerow([visible(value) for value in row] if is_shown else row)


def print_json(verb: str, fields: Mapping[str, Any]) -> None:
    """Print an object of JSON on one line; lists are printed as one such line for each of their members.

    :param verb: the verb whose schema the object has: "picas.<verb>/1"
    :param fields: what is known, None for what is not
    """
    print(json.dumps({"schema": f"picas.{verb}/1", **fields}))  # ASCII only, so also without control characters


def local_time(seconds: float | None, to_the_minute: bool = False) -> str | None:
    """Return a time for people: "2026-11-29 16:04:05 CET"; None for None.

    :param seconds: seconds since the epoch
    :param to_the_minute: whether to leave out the seconds
    """
    if seconds is None:
        return None
    form = "%Y-%m-%d %H:%M %Z" if to_the_minute else "%Y-%m-%d %H:%M:%S %Z"
    return datetime.fromtimestamp(seconds, timezone.utc).astimezone().strftime(form)


def json_time(seconds: float | None) -> str | None:
    """Return a time for programs, in UTC by RFC 3339: "2026-11-29T15:04:05Z"; None for None.

    :param seconds: seconds since the epoch
    """
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def number_of(count: int, what: str) -> str:
    """Return a count and a noun: "1 token", "3 tokens"."""
    return f"1 {what}" if count == 1 else f"{count} {what}s"
