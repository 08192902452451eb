"""Verbs for the embedded server: `serve`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..exceptions import PicasError
from ..util import visible
from .arguments import port_number
from .output import tell


def add_verbs(verbs: Any) -> None:
    """Add these verbs to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    parser = verbs.add_parser(
        "serve",
        help="run the embedded server",
        description="Run the embedded server, for a first try and for tests, with up to about ten thousand tokens. For "
        "real work, use Apache CouchDB.",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of the databases (default: picas in the user's data folder)"
    )
    place.add_argument("--memory", action="store_true", help="keep the databases in memory only")
    parser.add_argument(
        "--port",
        type=port_number,
        metavar="N",
        help="the port on 127.0.0.1 (default: the one used last time if it is free, or else any; 0: any)",
    )
    parser.add_argument(
        "--ready-file", type=Path, metavar="FILE", help="write a file for a shell to source once the server is up"
    )
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    from ..embedded.errors import EmbeddedServerError  # noqa: PLC0415  # no other verb needs these
    from ..embedded.serve import default_data_folder, serve  # noqa: PLC0415

    def say(line: str) -> None:
        print(visible(line), flush=True)  # its last words may contain text of requests

    try:
        data = None if options.memory else options.data or default_data_folder()
    except EmbeddedServerError as error:
        raise PicasError(str(error)) from None
    return serve(data, options.port, ready_file=options.ready_file, say=say, complain=tell)
