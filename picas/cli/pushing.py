"""The verb `push`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from couchdb.http import Forbidden, Unauthorized

from .. import console
from ..clients import CouchDB
from ..exceptions import AlreadyPushed, InputError, PushError, UsageError
from ..pool.new_tokens import check_fields, storable
from ..pushes import (
    FORMATS,
    Layout,
    Pushed,
    Template,
    count_tokens_in,
    format_of,
    push_file,
    read_tokens,
    repeatable,
)
from .arguments import add_json, add_verb, connect, field_value
from .output import number_of, print_json, tell

SHOWN = 10
"""How many tokens of a file `--dry-run` prints."""
PROGRESS_MINIMUM = 2000
"""The number of tokens from which there is a progress bar; fewer are pushed at once."""


def add_verbs(verbs: Any) -> None:
    """Add `push` to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    parser = add_verb(
        verbs,
        "push",
        _push,
        help="make tokens of the lines of text files, of tables (CSV), or of JSON values",
        description="Make a token of each line of a text file (blank lines and lines that begin with # are skipped), "
        "of each row of a table with headings (separated by commas, or by semicolons or tabs if the headings are; rows "
        "without a text are skipped), or of each JSON value, one a line. The tokens are called token_0, "
        "token_1 and so on, unless the file has ids for them. A number is never used twice.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a text file or a pipe, or - for standard input")
    parser.add_argument(
        "--format", choices=FORMATS, help="of all the files (default: by the ending: .csv, .tsv, .jsonl, else lines)"
    )
    parser.add_argument(
        "--template", metavar="TEXT",
        help="the token's input, with columns or fields in braces: 'fit {name} --alpha {alpha}'; their values are "
        "quoted for the shell where they need it; {input} is the whole line; {{ stands for a brace",
    )  # fmt: skip
    parser.add_argument(
        "--set", type=field_value, action="append", metavar="FIELD=VALUE", dest="fields",
        help="a field to set in each token, e.g. cores=4 or memory=8G; the value is JSON, or else a text",
    )  # fmt: skip
    parser.add_argument(
        "--id-from", metavar="COLUMN", help="the column or field with the tokens' ids; tokens that exist are left alone"
    )
    repeats = parser.add_mutually_exclusive_group()
    repeats.add_argument("--resume", action="store_true", help="finish an interrupted push of the same files")
    repeats.add_argument("--again", action="store_true", help="push files that are in the pool already once more")
    repeats.add_argument(
        "--dry-run", action="store_true", help="print the first tokens as JSON lines and count them all; push nothing"
    )
    add_json(parser, "an object of JSON for each file")


def _push(options: argparse.Namespace) -> int:
    if options.files.count("-") > 1:
        raise UsageError("standard input can be read only once")
    template = None if options.template is None else Template(options.template)
    layouts = [
        Layout(options.format or format_of(name), template=template, id_from=options.id_from) for name in options.files
    ]
    fields = None if options.fields is None else dict(options.fields)
    try:
        check_fields(fields or {})
        fields = None if fields is None else storable(fields)
    except InputError as error:
        raise UsageError(f"--set: {error}") from None
    if options.dry_run:
        for name, layout in zip(options.files, layouts):
            _show(name, layout, fields or {}, options.json)
        return 0
    client = connect()
    total = Pushed()
    for name, layout in zip(options.files, layouts):
        result = _push_one(client, name, layout, fields, options)
        total = replace(
            total,
            pushed=total.pushed + result.pushed,
            existing=total.existing + result.existing,
            refused=total.refused + result.refused,
        )
    if len(options.files) > 1 and not options.json:
        print(f"In total: {_summary(total)}")
    return console.EXIT_FAILURE if total.refused else 0


def _push_one(
    client: CouchDB, name: str, layout: Layout, fields: dict[str, Any] | None, options: argparse.Namespace
) -> Pushed:
    """Push one file, print what was done, and return that."""
    with repeatable(name) as path:
        try:
            result = _try(client, path, layout, fields, options.resume, options.again)
        except AlreadyPushed as known:
            _ask_for_another(known, str(path), name)
            result = _try(client, path, layout, fields, resume=False, again=True)
    if options.json:
        print_json("push", _described(name, result, is_dry=False))
    else:
        prefix = f"{_shown(name)}: " if len(options.files) > 1 else ""
        print(f"{prefix}{_summary(result)}" + (f": {result.ids()}" if result.ranges else ""))
    return result


def _try(
    client: CouchDB, path: Path, layout: Layout, fields: dict[str, Any] | None, resume: bool, again: bool
) -> Pushed:
    progress = console.ProgressBar(PROGRESS_MINIMUM, rate_of="tokens")
    try:
        return push_file(client, path, resume, progress, fields, again, layout)
    except (InputError, AlreadyPushed, Forbidden, Unauthorized):  # a repetition would fail too
        raise
    except (Exception, KeyboardInterrupt):
        tell("The push did not finish. To push the rest, repeat the command with --resume")
        raise


def _ask_for_another(known: AlreadyPushed, path: str, name: str) -> None:
    """Ask a person at a terminal whether to push a file once more.

    :raises PushError: if they say no, or there is no terminal
    """
    what = str(known) if known.is_finished else f"{known} (--resume finishes it)"
    if not sys.stdin.isatty():
        raise PushError(f"{what}; --again pushes it once more")
    if not console.confirm(f"{what.replace(path, _shown(name))}. Push it once more?"):
        raise PushError("nothing was pushed")


def _show(name: str, layout: Layout, fields: dict[str, Any], as_json: bool) -> None:
    """Print the first tokens that a push of a file would make, and how many there are."""
    with repeatable(name) as path:
        count = count_tokens_in(path, layout)
        if as_json:
            print_json("push", _described(name, None, is_dry=True, count=count))
            return
        try:
            for token in islice(read_tokens(path, layout), SHOWN):
                print(json.dumps({**token, **fields}))
            sys.stdout.flush()
        finally:  # also if the reader, such as `head -1`, wants no more tokens
            tell(f"{_shown(name)}: {number_of(count, 'token')} would be pushed")


def _described(name: str, result: Pushed | None, *, is_dry: bool, count: int | None = None) -> dict[str, Any]:
    """Return the fields of the JSON about a file. What a dry run does not find out is None."""
    known = None if result is None else result.pushed + result.existing + result.refused
    return {
        "file": name,
        "dry_run": is_dry,
        "tokens": count if known is None else known,
        "new": None if result is None else result.pushed,
        "present": None if result is None else result.existing,
        "deleted": None if result is None else result.deleted,
        "refused": None if result is None else result.refused,
        "numbers": None if result is None else [list(pair) for pair in result.ranges],
    }


def _summary(result: Pushed) -> str:
    """Return what a push has done, for people."""
    parts = [f"Pushed {number_of(result.pushed, 'token')}"]
    if result.existing:
        parts.append(f"{result.existing} in the pool already")
    if result.refused:
        parts.append(f"{result.refused} refused by the server")
    return ", ".join(parts)


def _shown(name: str) -> str:
    return "standard input" if name == "-" else name
