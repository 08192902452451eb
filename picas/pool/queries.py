"""The tokens that a person means: those of some states or views, or with some ids, that meet a filter."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from couchdb.http import ResourceNotFound

from ..clients import CouchDB
from ..documents import Document
from ..tokens.states import STATES, is_in_state
from ..util import is_number
from ..views import DESIGN_DOC, REASONS, REPORT
from . import pages
from .fields import MISSING, Field, text_of
from .filters import Filter
from .reading import Reader

FIRST_PAGE = 100
"""The size of the first page, where a filter may find all that is wanted in a few tokens."""


@dataclass(frozen=True)
class Source:
    """A view of tokens; that of a state holds only what is in this state."""

    view: str
    design_doc: str = DESIGN_DOC

    def has(self, token: Document) -> bool:
        """Return whether a token belongs to the view: the server reads a token later than its row."""
        return self.view not in STATES or is_in_state(token, self.view)


_ERROR = Source("error")


class TokenQuery:
    """The tokens of some sources that meet a filter. Iterate over it to read them, as often as you like.

    Only a page of them is in memory at a time. They come in the order of the sources, and then of the views: by id.

    :param client: the pool
    :param sources: where to read
    :param filter: what a token has to meet
    :param ids: read the tokens with these ids instead of those of the sources
    """

    def __init__(
        self,
        client: CouchDB,
        sources: Iterable[Source] = (),
        filter: Filter = Filter(),  # noqa: B008  # it can't be changed
        ids: Iterable[str] = (),
    ) -> None:
        self.sources = tuple(dict.fromkeys(sources))
        """Where the tokens are read."""
        self.filter = filter
        """What a token has to meet."""
        self.scanned = 0
        """The number of tokens that were read for the last iteration, those that the filter left out included."""
        self.matched = 0
        """The number of those that the filter did not leave out."""
        self.missing: list[str] = []
        """The ids that are no token's, as the last iteration has found."""
        self.lacks_reasons = False
        """Whether the view of the reasons is missing, so that all tokens in error were read instead."""
        self._client = client
        self._ids = list(dict.fromkeys(ids))

    def __iter__(self) -> Iterator[Document]:
        return self.read()

    def read(self, wanted: int | None = None) -> Iterator[Document]:
        """Yield the tokens.

        :param wanted: how many will be read, None for all; fewer than a page are then read at first
        :raises couchdb.ResourceNotFound: if there is no such view
        """
        self.scanned, self.matched, self.missing = 0, 0, []
        left = wanted
        for tokens in self._pages(wanted):
            self.scanned += len(tokens)
            accepted = (token for token in tokens if self.filter.accepts(token))
            for token in islice(accepted, left):
                self.matched += 1
                yield token
                left = None if left is None else left - 1
            if left == 0:
                return

    def count(self) -> int:
        """Return how many tokens there are. No token is read if there is no filter, or only one of a group in error.

        :raises couchdb.ResourceNotFound: if there is no such view
        """
        is_group = self.sources == (_ERROR,) and self.filter == Filter(group=self.filter.group)
        if not self._ids and is_group and self.filter:
            in_group = self._size_of_group()
            if in_group is not None:
                return in_group
        return sum(1 for _ in self) if self._ids or self.filter else self.size()

    def size(self) -> int:
        """Return how many tokens a whole iteration reads.

        :raises couchdb.ResourceNotFound: if there is no such view
        """
        return len(self._ids) + sum(map(self._size_of, self.sources))

    def _size_of(self, source: Source) -> int:
        in_group = self._size_of_group() if self.filter.group is not None and source == _ERROR else None
        if in_group is not None:
            return in_group
        return int(self._client.view(source.view, design_doc=source.design_doc, reduce=False, limit=0).total_rows)

    def _size_of_group(self) -> int | None:
        """Return how many tokens in error are in the group of the filter, None if the view of the groups is missing."""
        try:
            rows = self._client.view(REASONS, design_doc=REPORT, key=self.filter.group, group=True).rows
        except ResourceNotFound:
            self.lacks_reasons = True
            return None
        return sum(int(row.value) for row in rows)

    def _pages(self, wanted: int | None) -> Iterator[list[Document]]:
        if self._ids:
            yield from self._named()
        first = None if wanted is None else max(wanted, FIRST_PAGE) if self.filter else wanted
        for source in self.sources:
            for tokens in self._pages_of(source, first):
                yield [token for token in tokens if source.has(token)]

    def _named(self) -> Iterator[list[Document]]:
        """Yield the tokens with the ids, page by page, and note which ids are no token's."""
        reader = Reader()
        ids = iter(self._ids)
        while chunk := list(islice(ids, pages.PAGE)):
            tokens = [document for document in reader.documents(self._client, chunk) if document.get("type") == "token"]
            found = {token.id for token in tokens}
            self.missing += [id for id in chunk if id not in found]
            yield tokens

    def _pages_of(self, source: Source, first: int | None) -> Iterator[list[Document]]:
        group = self.filter.group
        if group is None or source != _ERROR:
            yield from pages.pages(self._client, source.view, source.design_doc, first)
            return
        params: dict[str, Any] = {"startkey": group, "endkey": group}
        of_group = pages.pages(self._client, REASONS, REPORT, first, **params)
        try:
            head = next(of_group)
        except ResourceNotFound:
            self.lacks_reasons = True
            yield from pages.pages(self._client, source.view, source.design_doc, first)
            return
        yield head
        yield from of_group


def ordered(tokens: Iterable[Document], field: Field, *, descending: bool, limit: int) -> list[Document]:
    """Return the first tokens in the order of a field: numbers, then texts, then anything else, then those without it.

    :param descending: whether the largest comes first; tokens without the field come last all the same
    :param limit: how many to return, which is also how many are held in memory; 0 for all
    """

    def key(token: Document) -> tuple[int, Any]:
        value = field.of(token)
        if value is MISSING or value is None:
            return (-1 if descending else 3), 0
        if is_number(value):
            return 0, value
        return (1, value) if isinstance(value, str) else (2, text_of(value))

    if not limit:
        return sorted(tokens, key=key, reverse=descending)
    return (heapq.nlargest if descending else heapq.nsmallest)(limit, tokens, key=key)
