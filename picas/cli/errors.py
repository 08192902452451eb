"""The verb `errors`: why tokens have failed, how often, and which."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from couchdb.http import ResourceNotFound

from .. import console
from ..clients import CouchDB
from ..pool.failures import MAX_SCANNED, Failures, find_failures, scan_failures
from ..views import DESIGN_DOC, REPORT, count_states
from .arguments import add_json, add_verb, connect
from .output import number_of, print_json, print_table, tell
from .progress import wait_until_indexed
from .status import failure_json, reason_text

COLUMNS = ("count", "group", "reason", "token")


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    parser = add_verb(
        verbs,
        "errors",
        _errors,
        help="show why tokens have failed, grouped",
        description="Group the tokens in error by the reasons of their failures, the largest group first: how many, "
        "the group, and the reason and the id of one of them.",
    )
    add_json(parser, "JSON lines, one for each group")


def _errors(options: argparse.Namespace) -> int:
    client = connect()
    try:
        wait_until_indexed(client, REPORT)
        failures = find_failures(client)
    except ResourceNotFound:
        failures = _scan(client)
    if options.json:
        for group in failures.groups:
            print_json("errors", failure_json(group))
    else:
        rows = [
            (group.count, group.group or None, reason_text(group), group.example.token) for group in failures.groups
        ]
        print_table(COLUMNS, rows, right=("count",), otherwise="no token is in error")
    if failures.other_groups:
        tell(f"and {number_of(failures.other_tokens, 'token')} in {number_of(failures.other_groups, 'other group')}")
    named = next((group.group for group in failures.groups if group.group), None)
    if named and not options.json and sys.stderr.isatty():
        tell(f"picas ls error --reason {named} lists the tokens of a group, picas show TOKEN shows one of them")
    return 0


def _scan(client: CouchDB) -> Failures:
    """Group the tokens in error without the views of Report, and say so if these are not all."""
    try:
        wait_until_indexed(client, DESIGN_DOC)
        failures, count = scan_failures(client), count_states(client)["error"]
    except ResourceNotFound:
        raise console.no_such_view("error", DESIGN_DOC, client) from None
    if count > MAX_SCANNED:
        tell(console.no_report(f"only the first {MAX_SCANNED} of {count} tokens in error were read"))
    return failures
