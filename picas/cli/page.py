"""The verb `web`: the page of a pool."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import socket
from pathlib import Path
from typing import Any

from couchdb.http import ResourceNotFound

from .. import console
from ..exceptions import PicasError
from ..util import import_extra, write_private
from ..views import DESIGN_DOC, OVERVIEW
from .arguments import add_verb, connect, port_number
from .output import tell
from .progress import IndexNotice

PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}
"""The modules that only the extra `web` installs, and their packages."""


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    parser = add_verb(
        verbs,
        "web",
        _web,
        help="show the pool on a page in your browser",
        description="Show the pool on a page in your browser, live: the progress, tokens, logs, pilots and "
        "charts. The page is read-only. It is served on this machine only, until Ctrl-C, and only to those who have "
        "the link that is printed. Prometheus can read /metrics. Needs the extra web.",
    )
    parser.add_argument(
        "--port", type=port_number, default=0, metavar="N", help="the port on 127.0.0.1 (default: any that is free)"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="also write the token of the link into this file, which only you can read, for programs like Prometheus; "
        "it is removed at the end",
    )


def _web(options: argparse.Namespace) -> int:
    for module, package in PACKAGES.items():
        import_extra(module, package, "web")
    from .web.server import serve  # noqa: PLC0415  # no other verb needs it

    client = connect()
    with contextlib.ExitStack() as stack:

        def introduce(link: str, port: int, token: str) -> None:
            if options.token_file is not None:
                write_private(options.token_file.expanduser(), f"{token}\n")
                stack.callback(_remove, options.token_file.expanduser())
            tell(f"The page of the pool {client.database_name} is at this address, for you only:")
            print(link, flush=True)
            tell("To open it on another machine, forward the port there first:")
            tell(f"ssh -L {port}:127.0.0.1:{port} {_user()}{socket.gethostname()}")
            tell("Ctrl-C ends it.")

        try:
            is_stopped = serve(client, options.port, IndexNotice(), introduce)
        except ResourceNotFound:
            raise console.no_such_view(OVERVIEW, DESIGN_DOC, client) from None
    if not is_stopped:
        raise PicasError("the page has ended by itself: start it again")
    tell("stopped")
    return 0


def _user() -> str:
    try:
        return f"{getpass.getuser()}@"
    except (KeyError, OSError):  # nobody knows this user's name
        return ""


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
