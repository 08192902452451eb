"""Files that describe tokens: lines of text, tables (CSV, TSV), and JSON values, one a line (JSONL)."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..exceptions import InputError, UnknownColumn, UsageError
from ..util import one_line
from .inputs import numbered_inputs, text_lines
from .new_tokens import check_fields, check_id, storable
from .templates import Template, UnknownName, listed

LINES, CSV, TSV, JSONL = FORMATS = ("lines", "csv", "tsv", "jsonl")
"""The formats: what is read as lines, as a table with commas or tabs, as JSON."""

EMPTY = {
    LINES: "each line that is neither blank nor a comment (#) makes a token",
    CSV: "each row below the headings makes a token",
    TSV: "each row below the headings makes a token",
    JSONL: "each JSON value on a line makes a token",
}
"""What makes a token, by format, for the error about a file that has none."""

_ENDINGS = {".csv": CSV, ".tsv": TSV, ".jsonl": JSONL, ".ndjson": JSONL}
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_CSV_DELIMITERS = (",", ";", "\t")  # where the decimal sign is a comma, spreadsheets write semicolons
_QUOTED = re.compile(r'"[^"]*"')
_OF_LINES = ("input", "line")  # the names of a line, for templates


@dataclass(frozen=True)
class Layout:
    """How a file describes tokens.

    - "lines": each line that is neither blank nor a comment (#) is an input.
    - "csv", "tsv": the first row has the headings, and each further row makes a token, whose input is an object with
      the row's texts by their headings. Rows without a text are skipped. In "csv", the cells are separated by commas;
      or by semicolons or tabs, if the headings have those and no comma.
    - "jsonl": a JSON value a line. An object that has the key `input` or `_id` holds fields of a token; any other value
      is the input itself.

    :param format: one of `FORMATS`
    :param template: makes the token's input, for a shell: each value is quoted where it needs that. Its names are the
        columns of a table; the keys of a JSON object, and of the object in its `input`; `input` or `line` for a line
    :param id_from: the name, as in a template, whose value is the token's id
    :raises UsageError: if the format is unknown
    """

    format: str = LINES
    template: Template | None = None
    id_from: str | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UsageError(f"{self.format!r} is no format: it must be one of {', '.join(FORMATS)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The names that each row must have."""
        return (*(self.template.names if self.template else ()), *([] if self.id_from is None else [self.id_from]))


BY_LINE = Layout()
"""Each line is an input."""


def format_of(name: str) -> str:
    """Return the format of a file by the ending of its name, for all unknown ones "lines".

    :raises UsageError: if a file with this ending is likely to be none that can be read
    """
    ending = Path(name).suffix.lower()
    if ending in _SPREADSHEETS:
        raise UsageError(f"{name} is a spreadsheet: save it there as CSV (UTF-8), and push that file")
    if ending == ".json":
        raise UsageError(f"{name} may be one JSON value: with --format jsonl, each line must be one")
    return _ENDINGS.get(ending, LINES)


def read_tokens(path: Path, layout: Layout = BY_LINE) -> Iterator[dict[str, Any]]:
    """Yield the fields of each token that a file describes: `input`, `_id` if it has one, and those of JSON objects.

    :raises InputError: if the file can't be read or does not have this layout; it names the line
    :raises UnknownColumn: if a name of the layout is no column
    """
    for _, fields in numbered_tokens(path, layout):
        yield fields


def numbered_tokens(path: Path, layout: Layout) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield what `read_tokens` does, each with the number of its line; the first line is 1."""
    for number, values, fields in _entries(path, layout):
        try:
            if layout.template is not None:
                fields["input"] = layout.template.fill(values, shlex.quote)
            if layout.id_from is not None:
                fields["_id"] = _id_in(values, layout.id_from)
            if layout.format == JSONL:
                check_fields(fields, ("input", "_id"))
            if "_id" in fields:
                check_id(fields["_id"])
            made = storable(fields) if layout.format == JSONL else fields
        except UnknownName as error:
            raise InputError(
                f"line {number} of {path} has no field {error.name!r}: it has {listed(values, error.name)}"
            ) from None
        except InputError as error:
            raise InputError(f"line {number} of {path}: {error}") from None
        yield number, made


def read_rows(path: Path, delimiter: str = ",", wanted: Collection[str] = ()) -> Iterator[dict[str, str]]:
    """Yield the rows of a table in a text file: their texts by the headings in the first row.

    Rows without a text are skipped.

    :param delimiter: what stands between two cells
    :param wanted: the headings that it must have
    :raises InputError: if the file can't be read, a heading is missing or there twice, or a row has more or fewer cells
        than there are headings; it names the line
    :raises UnknownColumn: if it lacks a heading
    """
    for _, row in _numbered_rows(path, delimiter, wanted):
        yield row


def _entries(path: Path, layout: Layout) -> Iterator[tuple[int, Mapping[str, Any], dict[str, Any]]]:
    """Yield the number of each line or row, its values by their names, and the fields of its token."""
    if layout.format in (CSV, TSV):
        delimiter = "\t" if layout.format == TSV else _delimiter_in(path)
        for number, row in _numbered_rows(path, delimiter, layout.names):
            yield number, row, {"input": row}
    elif layout.format == JSONL:
        for number, value in _numbered_values(path):
            yield number, *_of_value(value)
    else:
        _check_names(path, layout.names, _OF_LINES, "a line has the names")
        for number, text in numbered_inputs(path):
            yield number, dict.fromkeys(_OF_LINES, text), {"input": text}


def _delimiter_in(path: Path) -> str:
    """Return what separates the cells of a CSV file, by its headings."""
    headings = next((line for _, line in text_lines(path) if line.strip()), "")
    unquoted = _QUOTED.sub("", headings)
    return next((delimiter for delimiter in _CSV_DELIMITERS if delimiter in unquoted), _CSV_DELIMITERS[0])


def _numbered_rows(path: Path, delimiter: str, wanted: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader((line for _, line in text_lines(path, newline="")), delimiter=delimiter, strict=True)
    headings: list[str] = []
    number = 1
    try:
        for cells in reader:
            has_text = any(cell.strip() for cell in cells)
            if has_text and not headings:
                headings = [heading.strip() for heading in cells]
                _check_headings(path, number, headings)
                _check_names(path, wanted, headings, "the columns are")
            elif has_text:
                if len(cells) != len(headings):
                    _refuse(path, number, f"{_cells(len(cells))} instead of {len(headings)}, the number of headings")
                yield number, dict(zip(headings, cells))
            number = reader.line_num + 1
    except csv.Error as error:
        _refuse(path, number, f"no valid table: {error}")


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _check_headings(path: Path, number: int, headings: Sequence[str]) -> None:
    for position, heading in enumerate(headings, 1):
        if not heading:
            _refuse(path, number, f"column {position} has no heading")
    twice = [heading for heading, count in Counter(headings).items() if count > 1]
    if twice:
        _refuse(path, number, f"two columns have the heading {one_line(twice[0])!r}")


def _check_names(path: Path, wanted: Collection[str], known: Sequence[str], what: str) -> None:
    """Check that each name that a layout uses is among those of all rows."""
    for name in wanted:
        if name not in known:
            raise UnknownColumn(f"{path} has no column {one_line(name)!r}: {what} {listed(known, name)}")


def _numbered_values(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.rstrip(), parse_constant=_refuse_constant)
        except RecursionError:
            _refuse(path, number, "its value is nested too deeply")
        except json.JSONDecodeError as error:
            _refuse(path, number, f"no JSON value: {one_line(error.msg)} at column {error.colno}")
        except ValueError as error:
            _refuse(path, number, f"no JSON value: {one_line(error)}")


def _of_value(value: Any) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Return the values that a JSON value has for a template, and the fields of its token."""
    if not isinstance(value, dict):
        return {"input": value}, {"input": value}
    if "input" not in value and "_id" not in value:
        return value, {"input": value}
    content = value.get("input")
    return {**(content if isinstance(content, dict) else {}), **value}, dict(value)


def _id_in(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        raise UnknownName(name)
    value = values[name]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InputError(f"{one_line(name)} is {one_line(json.dumps(value))[:50]}, which can't be the id of a token")
    return value


def _refuse_constant(text: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python accepts but a database does not."""
    raise ValueError(f"{text} is not allowed")


def _refuse(path: Path, number: int, what: str) -> NoReturn:
    raise InputError(f"line {number} of {path}: {what}")
