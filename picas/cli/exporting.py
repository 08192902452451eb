"""The verb `export`: tokens as comma-separated values or lines of JSON, and their logs as files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..clients import CouchDB
from ..documents import Document
from ..exceptions import UsageError
from ..pool import TokenQuery
from ..pool.exports import save_logs_of
from ..pool.fields import MISSING, Field
from .arguments import add_verb, connect
from .cells import json_value, print_csv_of
from .output import number_of, tell
from .selecting import add_filters, fields_of, filter_of, indexed, sources_of, tell_gaps

DEFAULT_STATES = ("done", "error")
COLUMNS = (
    "_id", "state", "exit_code", "attempts", "host", "start", "end", "seconds", "cpu_seconds", "max_memory_mb",
    "reason", "input", "output",
)  # fmt: skip
"""The columns of comma-separated values, unless others are asked for."""


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    export = add_verb(
        verbs,
        "export",
        _export,
        help="print tokens as CSV or JSON lines, and save their logs as files",
        description="Print tokens to standard output: those that are done or in error, or those of the given states, "
        "that meet all filters. Values are printed as they are; in a spreadsheet, import them as text. The command can "
        "be repeated: logs that are there already are not fetched again.",
    )
    export.add_argument("states", nargs="*", metavar="STATE", help="todo, locked, done or error")
    add_filters(export)
    form = export.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="comma-separated values, with nested values as JSON")
    form.add_argument("--jsonl", action="store_true", help="an object of JSON on each line, by default all of a token")
    export.add_argument("--fields", metavar="A,B.C", help="only these fields, for example id,input.alpha,seconds")
    export.add_argument(
        "--logs", type=Path, metavar="FOLDER", help="save what is attached to each token in a folder with its id"
    )


def _export(options: argparse.Namespace) -> None:
    if not (options.csv or options.jsonl or options.logs):
        raise UsageError("in which form? Give --csv, --jsonl or --logs FOLDER")
    sources = sources_of(options, options.states, DEFAULT_STATES)
    fields = fields_of(options.fields)
    filter = filter_of(options)
    client = connect()
    query = TokenQuery(client, sources, filter)
    logs = _Logs(client, options.logs)
    found = _Found(fields)
    with indexed(client, query):
        tokens = logs.of(found.in_each(query))
        if options.csv:
            print_csv_of(tokens, fields or [Field(name) for name in COLUMNS])
        elif options.jsonl:
            for token in tokens:
                content = {field.name: json_value(token, field) for field in fields} if fields else token.value
                print(json.dumps(content))
        else:
            for _ in tokens:
                pass
    tell_gaps(query)
    logs.tell()
    found.tell(query.matched)


class _Logs:
    """Saves the logs of tokens.

    :param folder: where, None to save none
    """

    def __init__(self, client: CouchDB, folder: Path | None) -> None:
        self._client = client
        self._folder = folder
        self._files = 0
        self._tokens = 0

    def of(self, tokens: Iterator[Document]) -> Iterator[Document]:
        """Yield tokens when their logs are saved."""
        if self._folder is None:
            yield from tokens
            return
        for token, files in save_logs_of(self._client, tokens, self._folder):
            self._files += files
            self._tokens += files > 0
            yield token

    def tell(self) -> None:
        """Say on standard error what was saved."""
        if self._folder is not None:
            of_tokens = number_of(self._tokens, "token")
            tell(f"Saved {number_of(self._files, 'file')} of {of_tokens} in {self._folder}")


class _Found:
    """Notes which fields no token has.

    :param fields: the fields that were asked for
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self._absent = list(fields)

    def in_each(self, tokens: TokenQuery) -> Iterator[Document]:
        """Yield tokens, and note which fields they have."""
        for token in tokens:
            if self._absent:
                self._absent = [field for field in self._absent if field.of(token) is MISSING]
            yield token

    def tell(self, count: int) -> None:
        """Say on standard error which fields none has.

        :param count: how many tokens there were
        """
        if count and self._absent:
            names = ", ".join(field.name for field in self._absent)
            tell(f"None of {number_of(count, 'token')} has {names}")
