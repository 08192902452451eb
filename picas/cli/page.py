"""The verb `web`: the page of a pool."""

from __future__ import annotations

import argparse
import getpass
import socket
from typing import Any

from couchdb.http import ResourceNotFound

from .. import console
from ..exceptions import PicasError
from ..util import import_extra
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
        description="Show the pool on a page in your browser, live: how the work gets on, tokens, logs, pilots and "
        "charts. The page can change nothing. It is served on this machine only, until Ctrl-C, and only to who has the "
        "link that is printed. Prometheus can read /metrics. Needs the extra web.",
    )
    parser.add_argument(
        "--port", type=port_number, default=0, metavar="N", help="the port on 127.0.0.1 (default: any that is free)"
    )


def _web(options: argparse.Namespace) -> int:
    for module, package in PACKAGES.items():
        import_extra(module, package, "web")
    from .web.server import serve  # noqa: PLC0415  # no other verb needs it

    client = connect()

    def introduce(link: str, port: int) -> None:
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
