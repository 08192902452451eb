"""The command `picas`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from couchdb.http import HTTPError, ResourceNotFound

from .. import config, console
from ..couch.writes import is_passing
from ..exceptions import PicasError
from ..pilot.fleet import Kind, without_pilot
from ..pool import spool
from ..pool.recovery import Recovered, recover
from ..version import VERSION
from ..views import DESIGN_DOC, count_states

EXIT_TRY_LATER = 75
"""The exit code of `picas check` if the way to the database is out of order: EX_TEMPFAIL of BSD's sysexits.h."""
MAX_SHOWN = 10
"""Kinds of tokens that no pilot can take that `picas status` shows at the most."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and end the process with its exit code.

    :param arguments: the command line, without the command's name
    """
    options = _parser().parse_args(arguments)
    console.run(lambda: options.run(options))


def _parser() -> console.ArgumentParser:
    parser = console.ArgumentParser(prog="picas", description="Pilot jobs on a pool of tokens in CouchDB.")
    parser.add_argument("--version", action="version", version=f"picas {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser(
        "serve",
        help="run the embedded server",
        description="Run the embedded server, for trying out and testing: up to about ten thousand tokens. For real "
        "work take Apache CouchDB.",
    )
    place = serve.add_mutually_exclusive_group()
    place.add_argument("--data", type=Path, metavar="DIR", help="keep the databases here (default: the user's data)")
    place.add_argument("--memory", action="store_true", help="keep the databases in memory only")
    serve.add_argument("--port", type=_port, default=0, metavar="N", help="port on 127.0.0.1 (default: a free one)")
    serve.add_argument("--ready-file", type=Path, metavar="FILE", help="once up, write a file that a shell can source")
    serve.set_defaults(run=_serve)

    status = commands.add_parser("status", help="show how many tokens are in each state, and which no pilot can take")
    status.add_argument("design_doc", nargs="?", default=DESIGN_DOC, help="design document (default: Monitor)")
    status.set_defaults(run=_status)

    check = commands.add_parser(
        "check",
        help="say whether the pool can be reached",
        description=f"Say whether the pool can be reached with these settings: exit code 0 if so, {EXIT_TRY_LATER} if "
        f"that may go better later or elsewhere, {console.EXIT_FAILURE} if the settings are wrong.",
    )
    check.set_defaults(run=_check)

    recovery = commands.add_parser(
        "recover",
        help="bring in results that pilots could not save",
        description="Save the results that pilots have kept in a folder while the database was away, each if its token "
        "is still locked as it was then. It may be repeated, also while pilots do the same.",
    )
    recovery.add_argument(
        "folder", nargs="?", type=_folder, metavar="FOLDER", help="where (default: $PICAS_SPOOL, else picas-spool)"
    )
    recovery.set_defaults(run=_recover)
    return parser


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is not a port (0 to 65535)")
    return number


def _folder(text: str) -> Path:
    folder = Path(text)
    if not text or (folder.exists() and not folder.is_dir()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return folder


def _serve(options: argparse.Namespace) -> int:
    from ..embedded.serve import default_data_folder, serve  # noqa: PLC0415  # nothing else needs it

    data = None if options.memory else options.data or default_data_folder()
    return serve(data, options.port, ready_file=options.ready_file)


def _settings() -> config.Settings:
    """Return the settings; picasconfig.py is looked for where the command is run, which has no folder of its own."""
    return config.load(script_dir=Path.cwd())


def _check(options: argparse.Namespace) -> int:
    settings = _settings()
    try:
        console.connect(settings)
    except (PicasError, HTTPError) as error:
        if not is_passing(error):
            raise
        print(f"picas: {console.describe(error)}", file=sys.stderr)
        return EXIT_TRY_LATER
    print(f"The pool {settings.database} can be reached")
    return 0


def _status(options: argparse.Namespace) -> None:
    client = console.connect(_settings())
    try:
        counts = count_states(client, options.design_doc)
    except ResourceNotFound:
        raise console.no_such_view("overview_total", options.design_doc) from None
    for state, count in counts.items():
        print(f"{state} {count}")
    with contextlib.suppress(ResourceNotFound):  # views of an older release
        for line in _describe_kinds(without_pilot(client, options.design_doc)):
            print(line)


def _describe_kinds(kinds: Sequence[Kind]) -> Iterator[str]:
    """Yield lines that say which tokens no pilot can take."""
    if kinds:
        yield "No pilot that runs has what these tokens of todo need:"
    for kind in kinds[:MAX_SHOWN]:
        yield f"  {kind}"
    if len(kinds) > MAX_SHOWN:
        yield f"  and {sum(kind.count for kind in kinds[MAX_SHOWN:])} others"


def _recover(options: argparse.Namespace) -> int:
    folder = options.folder or spool.default_folder()
    if not spool.files(folder):
        print(f"nothing to recover in {folder}")
        return 0
    recovered = recover(console.connect(_settings()), folder, tell=print)
    print(_summary(recovered))
    return 0 if recovered.is_complete else console.EXIT_FAILURE


def _summary(recovered: Recovered) -> str:
    saved, aside = len(recovered.saved), len(recovered.kept_aside)
    where = f" in {recovered.kept_aside[0].parent}" if aside else ""
    return (
        f"recovered {saved} result{'' if saved == 1 else 's'}, {aside} kept aside{where}, "
        f"{len(recovered.unreadable)} unreadable, {len(recovered.left)} left"
    )
