"""The verb `views`: create the views of the pool."""

from __future__ import annotations

import argparse
from typing import Any

from .. import console
from ..util import visible
from ..views import DESIGN_DOC
from .arguments import add_verb, settings_here
from .progress import wait_until_indexed


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    views = add_verb(
        verbs,
        "views",
        _views,
        help="create the views of the pool, or bring them up to date",
        description="Create the views of the pool (todo, locked, done, error, overview_total and those that pilots "
        "read), or bring them up to date. What is there already stays. With a condition, the views are for a part of "
        "the tokens, in a design document of their own: picas views SingleCore 'doc.cores == 1'. Only an administrator "
        "of the database or of the server may do this.",
    )
    views.add_argument(
        "design_doc", nargs="?", default=DESIGN_DOC, metavar="NAME", help="the design document (default: Monitor)"
    )
    views.add_argument("condition", nargs="?", metavar="CONDITION", help="a JavaScript condition on doc")
    add_create_database(views)


def add_create_database(parser: argparse.ArgumentParser) -> None:
    """Add `--create-database`."""
    parser.add_argument("--create-database", action="store_true", help="create the database unless it exists")


def _views(options: argparse.Namespace) -> None:
    settings = settings_here()
    changed = console.make_views(settings, options.design_doc, options.condition, with_database=options.create_database)
    print(visible(f"The views in {options.design_doc} are {'created' if changed else 'there already'}"), flush=True)
    wait_until_indexed(console.connect(settings, max_outage=0), options.design_doc)
