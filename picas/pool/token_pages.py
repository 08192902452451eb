"""A page of tokens at a time, for people who look through a pool; each page begins where the one before has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from couchdb.http import ResourceNotFound

from ..clients import CouchDB
from ..documents import Document
from ..exceptions import UsageError
from ..tokens.states import STATES, is_in_state
from ..views import CLAIMS, DESIGN_DOC, REASONS, REPORT
from . import pages
from .filters import Filter

MAX_SCANNED = 5_000
"""How many tokens are read at most to find those of a page."""
_LAST = "\ufff0"
"""Comes after all characters of ids in the order of views."""
_MARGIN = 20


@dataclass(frozen=True)
class Place:
    """Where a page begins: after a token."""

    state: str
    id: str
    """The id of the token."""

    def __str__(self) -> str:
        """Return a text from which `parse_place` makes the place again."""
        return f"{self.state}/{self.id}"


def parse_place(text: str) -> Place:
    """Return the place for a text of `str(place)`.

    :raises UsageError: if it is none
    """
    state, _, id = text.partition("/")
    if state not in STATES:
        raise UsageError(f"{text!r} is not a place in a list of tokens")
    return Place(state, id)


@dataclass(frozen=True)
class TokenPage:
    """Some tokens."""

    tokens: tuple[Document, ...]
    next: Place | None
    """Where the next page begins, None if there is none."""
    scanned: int
    """How many tokens were read to find these."""


def read_page(
    client: CouchDB,
    states: Sequence[str],
    filter: Filter = Filter(),  # noqa: B008  # it can't be changed
    *,
    prefix: str = "",
    pilot: str | None = None,
    after: Place | None = None,
    limit: int = 50,
    max_scanned: int = MAX_SCANNED,
) -> TokenPage:
    """Return some tokens of some states, in the order of the states and then of their ids.

    It ends early, with a place to go on from, when so many tokens were read that nobody wants to wait longer.

    :param client: the pool
    :param states: the states
    :param filter: what a token has to meet
    :param prefix: how the ids begin, in upper or lower case where the server sorts these side by side, as CouchDB does
    :param pilot: of the locked tokens, return only those that the pilot with this id holds
    :param after: the place to begin at, that a page before has returned
    :param limit: how many tokens to return
    :param max_scanned: how many tokens to read at most, a little more or less
    :raises couchdb.ResourceNotFound: if there are no such views
    """
    found: list[Document] = []
    last: Place | None = None  # of those that were found
    scanned = 0
    folded = prefix.casefold()
    is_sparse = filter != Filter(group=filter.group)  # the server finds a group
    begin = states.index(after.state) if after is not None and after.state in states else 0
    for number, state in enumerate(states[begin:]):
        start = after.id if after is not None and number == 0 else None
        first = pages.PAGE // 4 if is_sparse else max(limit + 1, _MARGIN)
        for tokens in _pages(client, _view(state, filter.group, pilot), prefix, start, first):
            for token in tokens:
                scanned += 1
                is_meant = token.id.casefold().startswith(folded) and is_in_state(token, state)
                if not (is_meant and filter.accepts(token)):
                    continue
                if len(found) == limit:
                    return TokenPage(tuple(found), last, scanned)
                found.append(token)
                last = Place(state, token.id)
            if tokens and scanned >= max_scanned:
                return TokenPage(tuple(found), Place(state, tokens[-1].id), scanned)
    return TokenPage(tuple(found), None, scanned)


@dataclass(frozen=True)
class _View:
    name: str
    design_doc: str = DESIGN_DOC
    key: str | None = None
    """The key of the rows, None for a view whose keys are the ids."""
    fallback: str | None = None
    """The view to read if there is no such view."""


def _view(state: str, group: str | None, pilot: str | None) -> _View:
    """Return the view with the fewest other tokens."""
    if pilot is not None and state == "locked":
        return _View(CLAIMS, key=pilot)
    if group is not None and state == "error":
        return _View(REASONS, REPORT, group, fallback=state)
    return _View(state)


def _pages(client: CouchDB, view: _View, prefix: str, start: str | None, first: int) -> Iterator[list[Document]]:
    """Yield the tokens of a view after an id, page by page. Some may have another prefix."""
    begin, end = start or prefix, prefix + _LAST
    params: dict[str, Any] = {}
    if view.key is not None:
        params = {"startkey": view.key, "endkey": view.key}
    names = ("startkey", "endkey") if view.key is None else ("startkey_docid", "endkey_docid")
    params.update({name: id for name, id in zip(names, (begin, end)) if id not in ("", _LAST)})
    try:
        for tokens in pages.pages(client, view.name, view.design_doc, first, **params):
            if view.key is None:
                yield [token for token in tokens if token.id != start]
            else:  # a server that does not know the parameter begins at the first row
                yield [token for token in tokens if start is None or token.id > start]
    except ResourceNotFound:
        if view.fallback is None:
            raise
        yield from _pages(client, _View(view.fallback), prefix, start, first)
