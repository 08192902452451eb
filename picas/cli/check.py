"""The verb `check`: can the pool be reached, how, and what may this user do there?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from couchdb.http import HTTPError

from .. import config, console
from ..clients import CouchDB
from ..couch.outages import is_outage_at_start
from ..exceptions import PicasError
from ..tokens.states import STATES
from ..util import one_line
from ..views import DESIGN_DOC, FREE_VIEW, QUEUE, has_queue, view_definitions
from .arguments import settings_here

_APACHE = "The Apache Software Foundation"
_WIDTH = max(map(len, config.NAMES.values())) + 2


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    check = verbs.add_parser(
        "check",
        help="check whether the pool can be reached, and show how",
        description="Check whether the pool can be reached with the settings that are found. Show the server, where "
        "each setting comes from, whether the views are complete, and what this user may do. The exit code is 0 if the "
        f"pool can be reached, {console.EXIT_TRY_LATER} if it may be possible later or from elsewhere, and "
        f"{console.EXIT_FAILURE} if the settings are wrong.",
    )
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    settings = settings_here()
    try:
        client = console.connect(settings, max_outage=0)
    except (PicasError, HTTPError) as error:
        print(f"picas: {console.describe(error)}", file=sys.stderr, flush=True)
        _print_lines({"server": settings.host_url, "database": settings.database, "user": settings.username})
        _print_lines(_origins(settings))
        return console.EXIT_TRY_LATER if is_outage_at_start(error) else console.EXIT_FAILURE
    print(f"The pool {settings.database} can be reached")
    _print_lines({name: _ask(describe) for name, describe in _details(client, settings)})
    _print_lines(_origins(settings))
    return 0


def _print_lines(texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        if text:
            print(f"{name:{_WIDTH}}{one_line(text)}")


def _origins(settings: config.Settings) -> dict[str, str]:
    """Return where the settings come from, by their variables; an old `export` may be in the way of a file."""
    return {config.NAMES[name]: f"from {origin}" for name, origin in settings.origins.items()}


def _details(client: CouchDB, settings: config.Settings) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the names of the lines, and functions that return what stands in them."""
    yield "server", lambda: client.url + _ask(lambda: _describe_server(client.server_info()))
    yield "database", lambda: f"{client.database_name}, {_count(client.doc_count(), 'document')}"
    yield "user", lambda: settings.username
    yield "views", lambda: _describe_views(client)
    yield "may read", lambda: "yes"
    yield "may write", lambda: _describe_writing(client)
    yield "may change views", lambda: _describe_changing(client)


def _ask(describe: Callable[[], str]) -> str:
    """Return a text, "" if the server does not say what stands in it, or says something odd."""
    try:
        return describe()
    except (PicasError, HTTPError, LookupError, TypeError, AttributeError, RecursionError):
        return ""


def _describe_server(info: Mapping[str, Any]) -> str:
    version, vendor = info["version"], info.get("vendor", {}).get("name", _APACHE)
    return f", Apache CouchDB {version}" if vendor == _APACHE else f", {vendor}, compatible with CouchDB {version}"


def _describe_views(client: CouchDB) -> str:
    found = console.views_in(client.design_documents().get(DESIGN_DOC, {}))
    wanted = view_definitions()
    if not found.keys() >= set(STATES):
        return f"missing in {DESIGN_DOC}: python createViews.py creates them"
    older = [view for view in wanted if found.get(view) != wanted[view]]
    if not older:
        return f"{DESIGN_DOC} is complete"
    if FREE_VIEW not in older:
        return f"{DESIGN_DOC} is of an older release: python createViews.py updates {', '.join(older)}"
    missing = [view for view in wanted if view not in found] or ([] if has_queue(client) else [QUEUE])
    return f"{DESIGN_DOC} has a condition of its own" + (f", and no working {', '.join(missing)}" if missing else "")


def _describe_writing(client: CouchDB) -> str:
    documents = client.design_documents()
    rules = [f"_design/{name}" for name, document in documents.items() if "validate_doc_update" in document]
    return f"what {' and '.join(rules)} accepts" if rules else "yes"


def _describe_changing(client: CouchDB) -> str:
    return "yes" if client.is_admin() else "no: only an administrator of the database or the server may"


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"
