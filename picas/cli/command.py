"""The command line of `picas`: parse it, and call the verb."""

from __future__ import annotations

from collections.abc import Sequence

from .. import console
from ..version import VERSION
from . import check, pool, server


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and end the process with its exit code.

    :param arguments: the command line without the command's name, by default that of the process
    """
    options = _parser().parse_args(arguments)
    console.run(lambda: options.run(options))


def _parser() -> console.ArgumentParser:
    parser = console.ArgumentParser(prog="picas", description="Pilot jobs on a pool of tokens in CouchDB.")
    parser.add_argument("--version", action="version", version=f"picas {VERSION}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    server.add_verbs(verbs)
    check.add_verbs(verbs)
    pool.add_verbs(verbs)
    return parser
