"""The free tokens of a view that a pilot tries to lock next.

They are read in windows (see `windows`) and given out in small numbers. A free token that waits for its next try, or
for more room in the pilot, is set aside until it can be taken (see `selection`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from ..clients import CouchDB
from ..documents import Document
from ..tokens.resources import Room
from .rows import TokenView
from .selection import Fits, Selection
from .windows import WindowReader

SHARE = 4
"""A pilot that is alone locks at most one in so many of the free tokens ahead: others may come."""
CROWD_SHARE = 32
LEFT_IN_CROWD = 2
"""In a crowd it is one in so many, less this number: near the end each pilot takes one at a time."""


class Candidates:
    """The free tokens of one view.

    :param view: the name of the view
    :param view_params: CouchDB's query parameters, and `design_doc`
    """

    def __init__(self, view: str, view_params: Mapping[str, Any]) -> None:
        self.view = view
        self.view_params = dict(view_params)
        self._selection = Selection()
        self._reader = WindowReader(TokenView(view, self.view_params, self._selection), self._selection)
        self._window: deque[Document] = deque()  # what is left of it
        self._free = 0  # how many free tokens there are, as far as this pilot knows

    def choose(self, fits: Fits, room: Room | None = None) -> None:
        """Set which tokens are given out from now on.

        :param fits: whether a token fits the pilot; a token that does not is left alone until this changes
        :param room: what the pilot has left for further tokens, None if it works on one at a time
        """
        if self._selection.choose(fits, room):
            self._reader.start_anew()

    def take(self, client: CouchDB, count: int = 1, ahead: int = 0) -> list[Document]:
        """Return tokens that were free when they were read; none if the view has none.

        :param client: the pool
        :param count: the most tokens to return
        :param ahead: how many more to return at most that are to wait for a slot. Near the end of the pool, or while a
            token waits for more room, there are none of these
        :raises couchdb.ResourceNotFound: if there is no such view
        """
        selection, reader, window = self._selection, self._reader, self._window
        taken = selection.take_larger(client, count)
        if selection.blocks_others(client):
            return taken
        if window and reader.is_stale:
            window.clear()
            reader.note_stale()
        selection.move(window, taken, count)
        if not taken and not window and (count or self._spare) and not self._is_resting:
            window.extend(reader.read(client, count, ahead))
            self._free = max(reader.size, len(window))
            selection.move(window, taken, count)
        if ahead and (taken or not count):
            selection.move_ahead(window, taken, min(ahead, self._spare))
        self._free -= len(taken)
        selection.note_taken(len(taken))
        return taken

    @property
    def _is_resting(self) -> bool:
        return self._reader.is_resting and self._selection.seconds_left() > 0

    @property
    def _spare(self) -> int:
        """How many tokens may be taken that have to wait for a slot."""
        if self._selection.has_larger:
            return 0
        if self._reader.is_crowded:
            return max(0, self._free // CROWD_SHARE - LEFT_IN_CROWD)
        return max(0, self._free // SHARE)

    @property
    def has_larger(self) -> bool:
        """Whether there are tokens that wait for more room."""
        return self._selection.has_larger

    @property
    def ready_at(self) -> float:
        """The time at which the first token that waits for its time may be taken, on the clock of `time.monotonic`.

        Infinity if there is none.
        """
        return time.monotonic() + self._selection.seconds_left()

    @property
    def are_scarce(self) -> bool:
        """Whether the view has no more tokens than were read at once, or too few for the pilots that want them."""
        return self._reader.has_few

    def look_anew(self) -> None:
        """Read the view the next time, though a moment ago it had only tokens that were set aside."""
        self._reader.look_anew()

    def met_others(self, in_a_row: int = 1) -> None:
        """Note that another pilot has locked a candidate before us.

        :param in_a_row: how often that has happened without a success in between
        """
        if self._reader.meet_other(in_a_row):
            self._window.clear()
