"""The command line of `picas`: parse it, and call the verb."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from couchdb.http import HTTPError

from .. import console
from ..couch.outages import is_outage_at_start
from ..exceptions import PicasError, UsageError
from ..version import VERSION
from . import (
    changing,
    check,
    completion,
    errors,
    explaining,
    exporting,
    listing,
    orders,
    page,
    pilots,
    pushing,
    recover,
    reporting,
    running,
    server,
    setting_up,
    showing,
    starting,
    status,
    token_logs,
    top,
    views,
    wait,
)
from .arguments import refuse_with

GROUPS = (
    setting_up,
    check,
    views,
    pushing,
    running,
    status,
    top,
    wait,
    listing,
    errors,
    showing,
    token_logs,
    explaining,
    changing,
    pilots,
    orders,
    exporting,
    reporting,
    page,
    starting,
    recover,
    server,
    completion,
)
"""The modules with the verbs, in the order in which the help lists these."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and end the process with its exit code.

    :param arguments: the command line without the command's name, by default that of the process
    """
    parser = _parser()
    given, command = running.split_command(sys.argv[1:] if arguments is None else arguments)
    # `completion` describes the parser.
    defaults = argparse.Namespace(command=command, runner=console.run, parser=parser, refuse=None)
    options, unknown = parser.parse_known_args(given, defaults)
    if unknown:
        (options.refuse or refuse_with(parser))(unknown)
    options.runner(lambda: _run(options))


def _run(options: argparse.Namespace) -> int | None:
    """Call the verb and return its exit code. An error becomes one line on standard error."""
    try:
        code: int | None = options.run(options)
    except (PicasError, HTTPError) as error:
        console.print_error(console.describe(error), "picas")
        if isinstance(error, UsageError):
            return console.EXIT_USAGE
        return console.EXIT_TRY_LATER if is_outage_at_start(error) else console.EXIT_FAILURE
    return code


def _parser() -> console.ArgumentParser:
    parser = console.ArgumentParser(prog="picas", description="Pilot jobs on a pool of tokens in CouchDB.")
    parser.add_argument("--version", action="version", version=f"picas {VERSION}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in GROUPS:
        group.add_verbs(verbs)
    return parser
