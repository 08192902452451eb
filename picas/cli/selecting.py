"""The arguments by which several verbs select tokens: states, a view, ids and filters."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable, Iterator, Sequence

from couchdb.http import ResourceNotFound

from .. import console
from ..clients import CouchDB
from ..exceptions import UsageError
from ..pool import Filter, Source, TokenQuery, make_filter
from ..pool.fields import Field, parse_field
from ..pool.indexing import wait_for_index
from ..tokens.states import STATES
from ..util import nearest
from ..views import REPORT
from .arguments import duration
from .output import tell
from .progress import IndexNotice

MAX_NAMED = 5
"""The most tokens that a line names."""


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a filter, and `--view`."""
    group = parser.add_argument_group("which tokens")
    group.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="'FIELD OPERATOR VALUE'",
        help="only tokens that meet this: 'exit_code = 1', 'input.alpha >= 0.5', 'reason ~ ^exit', 'output missing'. "
        "The operators are = != < <= > >= ~ (a regular expression), exists and missing. A value is JSON, else a text. "
        "Can be given several times.",
    )
    group.add_argument("--reason", metavar="GROUP", help="only failures of this group, as `picas errors` lists them")
    group.add_argument("--match", metavar="REGEX", help="only tokens whose last reason contains this expression")
    group.add_argument(
        "--since",
        type=duration,
        metavar="DURATION",
        help="only tokens that were locked, or whose last attempt ended, within this time: 90 (seconds), 15m, 2h, 3d",
    )
    group.add_argument(
        "--older-than", type=duration, metavar="DURATION", help="only tokens for which that is longer ago than this"
    )
    group.add_argument(
        "--view", type=console.view_name, metavar="DESIGN_DOCUMENT/VIEW", help="the tokens of this view, for any view"
    )


def filter_of(options: argparse.Namespace) -> Filter:
    """Return the filter that the arguments of `add_filters` describe.

    :raises UsageError: if one of them is invalid
    """
    return make_filter(options.where, options.reason, options.match, options.since, options.older_than)


def sources_of(options: argparse.Namespace, states: Sequence[str], default: Iterable[str] = ()) -> list[Source]:
    """Return the states or the view that were given.

    :param states: the words that were given
    :param default: the states if none was given
    :raises UsageError: if a word is no state, or if there are both states and a view
    """
    if options.view is not None:
        if states:
            raise UsageError(f"--view can't be given together with {states[0]}")
        design_doc, view = options.view
        return [Source(view, design_doc)]
    for word in states:
        if word not in STATES:
            raise UsageError(f"{word!r} is not a state: the states are {', '.join(STATES)}{nearest(word, STATES)}")
    return [Source(state) for state in states or default]


def fields_of(text: str | None) -> list[Field]:
    """Return the fields in a list like "id,input.alpha".

    :raises UsageError: if one of them can't be a field
    """
    return [parse_field(name) for name in text.split(",")] if text is not None else []


@contextlib.contextmanager
def indexed(client: CouchDB, query: TokenQuery) -> Iterator[None]:
    """Wait until the server has indexed the views, before the block, and name a view that does not exist in the error.

    :raises PicasError: if that happens in the block
    """
    announce = IndexNotice()
    try:
        for source in query.sources:
            wait_for_index(client, source.design_doc, announce)
        if query.filter.group is not None:
            with contextlib.suppress(ResourceNotFound):
                wait_for_index(client, REPORT, announce)
        yield
    except ResourceNotFound:
        if not query.sources:
            raise
        raise console.no_such_view(query.sources[0].view, query.sources[0].design_doc, client) from None


def tell_gaps(query: TokenQuery) -> None:
    """Print to standard error what a query has not found: tokens, or the view of the reasons."""
    if query.lacks_reasons:
        tell(console.no_report("all tokens in error were read"))
    if query.missing:
        more = len(query.missing) - MAX_NAMED
        names = ", ".join(query.missing[:MAX_NAMED]) + (f" and {more} others" if more > 0 else "")
        tell(f"There is no token {names}")
