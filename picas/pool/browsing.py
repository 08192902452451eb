"""Looking through tokens page by page, however many there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..clients import CouchDB
from ..documents import Document
from ..tokens.states import is_in_state
from ..views import CLAIMS, DESIGN_DOC, REASONS, REPORT
from .reading import Reader

PAGE = 100
"""The number of tokens on a page."""
_LAST = "\ufff0"  # sorts behind everything that an id may go on with


@dataclass(frozen=True)
class Shelf:
    """Tokens to look through: those of a state, or fewer of them."""

    state: str = "error"
    """One of `states.STATES`. The tokens of a group are in error, those of a pilot are locked."""
    group: str | None = None
    """Only failures of this group; '' for those of which an older release has noted none."""
    pilot: str | None = None
    """Only the tokens that the pilot with this id holds."""
    begin: str = ""
    """Only tokens whose ids begin with this, in upper or lower case: CouchDB sorts these side by side."""

    @classmethod
    def of_group(cls, group: str) -> Shelf:
        """Return the failures of a group."""
        return cls("error", group=group)

    @classmethod
    def of_pilot(cls, pilot: str) -> Shelf:
        """Return the tokens that a pilot holds."""
        return cls("locked", pilot=pilot)

    def beginning_with(self, begin: str) -> Shelf:
        """Return those of the same tokens whose ids begin with a text."""
        return replace(self, begin=begin)


@dataclass(frozen=True)
class TokenPage:
    """Some tokens of a shelf."""

    shelf: Shelf
    number: int
    """The number of the page; the first is 0."""
    tokens: tuple[Document, ...] = ()
    """In the order of their ids. A token that has left the state since the server has indexed it is left out."""
    is_last: bool = True
    """Whether there are no further pages."""


def read_page(client: CouchDB, shelf: Shelf, number: int = 0, size: int = PAGE) -> TokenPage:
    """Return a page of tokens, with one request.

    :param client: the pool
    :param shelf: which tokens
    :param number: the number of the page, beginning with 0. The server counts the rows of the pages before, so this is
        for people who turn pages, not for reading all.
    :param size: the number of tokens on a page
    :raises couchdb.ResourceNotFound: if there is no such view
    """
    result, tokens = Reader().rows(client, limit=size + 1, skip=number * size, **_parameters(shelf))
    ids = [row.id for row in result.rows]
    on_page, begin = set(ids[:size]), shelf.begin.casefold()
    kept = [
        token
        for token in tokens
        if token.id in on_page and token.id.casefold().startswith(begin) and is_in_state(token, shelf.state)
    ]
    return TokenPage(shelf, number, tuple(kept), len(ids) <= size)


def _parameters(shelf: Shelf) -> dict[str, Any]:
    """Return the view of a shelf, and CouchDB's query parameters."""
    if shelf.group is None and shelf.pilot is None:
        keys = {"startkey": shelf.begin, "endkey": shelf.begin + _LAST} if shelf.begin else {}
        return {"view": shelf.state, "design_doc": DESIGN_DOC, "reduce": False, **keys}
    view, design_doc, key = (CLAIMS, DESIGN_DOC, shelf.pilot) if shelf.group is None else (REASONS, REPORT, shelf.group)
    ids = {"startkey_docid": shelf.begin, "endkey_docid": shelf.begin + _LAST} if shelf.begin else {}
    return {"view": view, "design_doc": design_doc, "reduce": False, "startkey": key, "endkey": key, **ids}
