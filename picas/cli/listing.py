"""The verb `ls`: tokens of some states that meet a filter."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from ..documents import Document
from ..pool import Source, TokenQuery
from ..pool.fields import MISSING, Field, parse_field, text_of
from ..pool.queries import ordered
from ..util import visible
from .arguments import add_verb, connect, not_negative
from .cells import json_value, print_csv_of
from .output import is_terminal, local_time, number_of, print_json, print_table, tell
from .selecting import add_filters, fields_of, filter_of, indexed, sources_of, tell_gaps

LIMIT = 25
"""How many tokens a table has, unless another number is asked for."""
DEFAULT_STATES = ("locked", "error")
COLUMNS = {
    "todo": ("id", "attempts", "input"),
    "locked": ("id", "host", "pilot", "since", "attempts"),
    "done": ("id", "host", "since", "seconds", "attempts"),
    "error": ("id", "host", "since", "attempts", "group", "reason"),
}
"""The columns of a table, by the state of its tokens."""
MIXED_COLUMNS = ("id", "state", "host", "since", "group", "reason")
"""The columns of a table of tokens in several states."""
NARROW = 70
"""At a terminal with fewer columns than this, `LESS_IMPORTANT` is left out, so that ids are shown whole."""
LESS_IMPORTANT = frozenset({"host", "since"})
RECORD = (
    "id", "state", "host", "pilot", "since", "attempts", "exit_code", "seconds", "group", "reason", "input",
)  # fmt: skip
"""What JSON has of each token."""


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    listing = add_verb(
        verbs,
        "ls",
        _list,
        help="list tokens of some states that meet a filter",
        description="List tokens: those that are locked or in error, or those of the given states, that meet all "
        "filters. Besides a token's own fields, a column, a filter and the sort order can name id, state, host, pilot, "
        "since, start, end, seconds, cpu_seconds, max_memory_mb, attempts (how many), reason and group. With a dot "
        "before it, such a name means the token's own field.",
    )
    listing.add_argument("states", nargs="*", metavar="STATE", help="todo, locked, done or error")
    add_filters(listing)
    listing.add_argument("--fields", metavar="A,B.C", help="the columns, for example id,input.alpha,attempts.-1.host")
    listing.add_argument("--sort", metavar="FIELD", help="sort by a field; --sort=-FIELD puts the largest first")
    listing.add_argument(
        "--limit",
        type=not_negative,
        metavar="N",
        help=f"how many tokens, 0 for all (default: {LIMIT} in a table, else all)",
    )
    form = listing.add_mutually_exclusive_group()
    form.add_argument("--ids", action="store_true", help="print the ids only, for example for `picas retry -`")
    form.add_argument("--count", action="store_true", help="print how many tokens there are")
    form.add_argument("--json", action="store_true", help="print an object of JSON for each token instead")
    form.add_argument("--csv", action="store_true", help="print comma-separated values instead")


def _list(options: argparse.Namespace) -> None:
    default = ("error",) if options.reason else DEFAULT_STATES
    sources = sources_of(options, options.states, default)
    asked = fields_of(options.fields)
    order = None if options.sort is None else parse_field(options.sort.removeprefix("-"))
    filter = filter_of(options)
    client = connect()
    query = TokenQuery(client, sources, filter)
    with indexed(client, query):
        if options.count:
            print(query.count())
        else:
            _print(options, query, sources, asked, order)
    tell_gaps(query)


def columns_of(states: Sequence[str], width: int | None) -> list[Field]:
    """Return the columns for tokens of some states.

    :param states: the states, or the name of a view
    :param width: how wide a table may be, in characters; None for any width
    """
    names = COLUMNS.get(states[0], MIXED_COLUMNS) if len(states) == 1 else MIXED_COLUMNS
    is_narrow = width is not None and width < NARROW
    return [Field(name) for name in names if not (is_narrow and name in LESS_IMPORTANT)]


def _print(
    options: argparse.Namespace,
    query: TokenQuery,
    sources: Sequence[Source],
    asked: Sequence[Field],
    order: Field | None,
) -> None:
    """Print the tokens, and say on standard error how many more there are, and what was read to find these."""
    is_table = not (options.ids or options.json or options.csv)
    limit = (LIMIT if is_table else 0) if options.limit is None else options.limit
    if order is None:
        tokens: Iterable[Document] = query.read(limit or None)
    else:
        tokens = ordered(query, order, descending=options.sort.startswith("-"), limit=limit)
    width = shutil.get_terminal_size().columns if is_table and is_terminal() else None
    columns = asked or columns_of([source.view for source in sources], width)
    if options.ids:
        for token in tokens:
            print(visible(token.id) if is_terminal() else token.id)
    elif options.json:
        for token in tokens:
            print_json("ls", to_json(token, asked))
    elif options.csv:
        print_csv_of(tokens, columns)
    else:
        _print_table(tokens, columns)
    _tell_rest(query, limit)


def _print_table(tokens: Iterable[Document], columns: Sequence[Field]) -> None:
    rows: list[list[str | None]] = []
    texts: set[str] = set()
    for token in tokens:
        values = [(column, column.of(token)) for column in columns]
        texts.update(column.name for column, value in values if column.is_time or isinstance(value, str))
        rows.append([table_cell(column, value) for column, value in values])
    names = [column.name for column in columns]
    print_table(names, rows, right=set(names) - texts, otherwise="no token matches")


def table_cell(field: Field, value: Any) -> str | None:
    """Return the value of a field for a table."""
    if field.is_time and value is not MISSING:
        return local_time(value)
    return text_of(value) or None


def _tell_rest(query: TokenQuery, limit: int) -> None:
    """Say on standard error how many more tokens there are, and how many were read to find these."""
    shown = min(query.matched, limit) if limit else query.matched
    size = query.size() if limit else query.scanned
    if query.filter and query.scanned > shown:
        more = f", {size - query.scanned} more were not read" if size > query.scanned else ""
        tell(f"Read {number_of(query.scanned, 'token')} to find {query.matched}{more}")
    rest = (query.matched if query.filter else size) - shown
    if rest > 0:
        tell(f"{rest} more: --limit 0 shows all")


def to_json(token: Document, asked: Sequence[Field] = ()) -> dict[str, Any]:
    """Return the fields of a token in a list for programs.

    :param asked: the fields of the token that a person has asked for
    """
    record = _values(token, [Field(name) for name in RECORD])
    return {**record, "fields": _values(token, asked) if asked else None}


def _values(token: Document, fields: Iterable[Field]) -> dict[str, Any]:
    """Return the values of fields by their names, as JSON holds them: times in UTC, None for what is missing."""
    return {field.name: json_value(token, field) for field in fields}
