"""The verb `top`: a pool, live, in the whole terminal."""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib import import_module
from typing import Any

from couchdb.http import ResourceNotFound

from .. import console
from ..couch.connections import server_of
from ..exceptions import PicasError
from ..util import import_extra
from ..views import DESIGN_DOC, OVERVIEW, count_states
from .arguments import add_verb, settings_here
from .progress import wait_until_indexed


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    add_verb(
        verbs,
        "top",
        _top,
        help="watch the pool in the whole terminal, and steer it",
        description="Watch the pool in the whole terminal: the counts, the rate, failures, pilots, the newest ends and "
        "tokens. The key ? lists the keys, q quits. Tokens can be opened, retried and cancelled, pilots drained, and "
        "the pool paused; each asks first.",
    )


def _top(options: argparse.Namespace) -> int:
    # textual writes to standard error.
    if not (sys.stdin.isatty() and console.is_live(sys.stdout) and console.is_live(sys.stderr)):
        raise PicasError("picas top needs a terminal: picas status --watch prints to a file or a pipe")
    if not all(shutil.get_terminal_size(fallback=(0, 0))):  # textual would draw the screen again and again
        raise PicasError("this terminal does not say how large it is: stty rows 24 cols 80")
    import_extra("textual", "textual", "cli")
    settings = settings_here()
    client = console.connect(settings, max_outage=0)
    try:
        wait_until_indexed(client, DESIGN_DOC)
        counts = count_states(client)
    except ResourceNotFound:
        raise console.no_such_view(OVERVIEW, DESIGN_DOC, client) from None
    app = import_module("picas.cli.live.app")
    code: int = app.run(client, counts, f"{settings.database} on {server_of(settings.host_url)}")
    return code
