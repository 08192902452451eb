"""The verb `wait`: until all tokens have come to their end."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import time
from collections.abc import Mapping
from typing import Any, Callable

from couchdb.http import HTTPError, ResourceNotFound

from .. import config, console
from ..clients import CouchDB
from ..couch.outages import MAX_OUTAGE, is_outage, is_outage_at_start, wait_out
from ..exceptions import PicasError
from ..pool.completion import tokens_left, wait_until_ended
from ..pool.indexing import wait_for_index
from ..util import After, duration_text
from ..views import DESIGN_DOC, OVERVIEW
from .announcing import Announcer, add_arguments
from .arguments import add_verb, duration, settings_here
from .output import tell
from .progress import IndexNotice


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    parser = add_verb(
        verbs,
        "wait",
        _wait,
        help="wait until no token is todo or locked",
        description="Wait until no token is todo or locked, and print what came of them. If the server is down "
        f"meanwhile, wait for it too, for $PICAS_MAX_OUTAGE or an hour. The exit code is {console.EXIT_IN_ERROR} if "
        f"tokens are in error, and {console.EXIT_TIMEOUT} if the time is up.",
    )
    parser.add_argument(
        "--timeout", type=duration, metavar="DURATION", help="wait no longer than this, such as 90 or 2h"
    )
    parser.add_argument(
        "--then",
        metavar="COMMAND",
        help="when all have ended, run this shell command, with PICAS_DONE and PICAS_ERROR in its environment: the "
        f"counts. If it fails, the exit code is {console.EXIT_FAILURE}",
    )
    add_arguments(parser)
    parser.add_argument("--quiet", action="store_true", help="print nothing to standard output")


def _wait(options: argparse.Namespace) -> int:
    settings, began = settings_here(), time.monotonic()
    timeout = math.inf if options.timeout is None else options.timeout
    patience = min(config.duration(None, "PICAS_MAX_OUTAGE", MAX_OUTAGE), timeout)
    announcer = Announcer(options, settings.database)
    client: CouchDB | None = None
    try:
        client = console.connect(settings, max_outage=patience)
        left = max(0.0, timeout - (time.monotonic() - began))
        if not _is_indexed(client, patience, After(left)):
            text = "the time is up, and the server is still indexing the views"
            tell(f"picas: {text}")
            announcer.announce(text)
            return console.EXIT_TIMEOUT
        left = max(0.0, timeout - (time.monotonic() - began))
        counts = wait_until_ended(client, timeout=left, max_outage=patience)
    except ResourceNotFound:
        raise console.no_such_view(OVERVIEW, DESIGN_DOC, client) from None
    except (PicasError, HTTPError) as error:
        is_away = is_outage_at_start(error) if client is None else is_outage(error)
        is_late = is_away and time.monotonic() - began >= timeout
        why = "the time is up" if is_late else "picas wait has given up"
        if is_late:
            tell(f"picas: {console.describe(error)}")
        if is_late or client is not None:  # else a person at the terminal reads the error at once
            announcer.announce(f"{why}: {console.describe(error)}")
        if is_late:
            return console.EXIT_TIMEOUT
        raise
    text = _describe(counts, time.monotonic() - began)
    if not options.quiet:
        print(text, flush=True)
    announcer.announce(text, counts, client)
    if tokens_left(counts):
        return console.EXIT_TIMEOUT
    if options.then and not _succeeds(options.then, counts):
        return console.EXIT_FAILURE
    return console.EXIT_IN_ERROR if counts["error"] else 0


def _is_indexed(client: CouchDB, patience: float, is_late: Callable[[], bool]) -> bool:
    """Wait until the server has indexed the views, show how far it is, and return whether it has."""
    notice = IndexNotice()
    return wait_out(lambda: wait_for_index(client, DESIGN_DOC, notice, is_late), patience, is_late)


def _describe(counts: Mapping[str, int], seconds: float) -> str:
    """Return the result for people: "done 198, error 2 after 12 min"."""
    states = counts if tokens_left(dict(counts)) else ("done", "error")
    return f"{', '.join(f'{state} {counts[state]}' for state in states)} after {duration_text(seconds)}"


def _succeeds(command: str, counts: Mapping[str, int]) -> bool:
    """Run a shell command and return whether it succeeds."""
    numbers = {f"PICAS_{state.upper()}": str(count) for state, count in counts.items()}
    code = subprocess.run(command, shell=True, env={**os.environ, **numbers}, check=False).returncode
    if code:
        tell(f"picas: the command of --then has failed with exit code {code}")
    return code == 0
