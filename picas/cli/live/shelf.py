"""Which tokens the live view shows in its list."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...clients import CouchDB
from ...pool.filters import Filter
from ...pool.token_pages import Place, TokenPage, read_page

PAGE = 100
"""The number of tokens on a page."""


@dataclass(frozen=True)
class Shelf:
    """A page of the tokens of a state, or of fewer of them."""

    state: str = "error"
    """One of `states.STATES`. The tokens of a group are in error, those of a pilot are locked."""
    group: str | None = None
    """Only failures of this group; '' for those of which an older release has noted none."""
    pilot: str | None = None
    """Only the tokens that the pilot with this id holds."""
    begin: str = ""
    """Only tokens whose ids begin with this, in upper or lower case."""
    turned: tuple[Place, ...] = ()
    """Where the second page begins, and each further one up to this page."""

    @classmethod
    def of_group(cls, group: str) -> Shelf:
        """Return the failures of a group."""
        return cls("error", group=group)

    @classmethod
    def of_pilot(cls, pilot: str) -> Shelf:
        """Return the tokens that a pilot holds."""
        return cls("locked", pilot=pilot)

    @property
    def page_number(self) -> int:
        """The number of the page; the first is 1."""
        return len(self.turned) + 1

    def beginning_with(self, begin: str) -> Shelf:
        """Return the first page of those of the same tokens whose ids begin with a text."""
        return replace(self, begin=begin, turned=())

    def next_page(self, place: Place) -> Shelf:
        """Return the next page, which begins at a place."""
        return replace(self, turned=(*self.turned, place))

    def previous_page(self) -> Shelf:
        """Return the page before this one, or the first page."""
        return replace(self, turned=self.turned[:-1])

    def read(self, client: CouchDB) -> TokenPage:
        """Return the tokens.

        :raises couchdb.ResourceNotFound: if there are no views
        """
        after = self.turned[-1] if self.turned else None
        filter = Filter(group=self.group)
        return read_page(client, [self.state], filter, prefix=self.begin, pilot=self.pilot, after=after, limit=PAGE)
