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

    def choose(self, fits: Fits, room: Room | None = None) -> None:
        """Set which tokens are given out from now on.

        :param fits: whether a token fits the pilot; a token that does not is left alone until this changes
        :param room: what the pilot has left for further tokens, None if it works on one at a time
        """
        if self._selection.choose(fits, room):
            self._reader.start_anew()

    def take(self, client: CouchDB, count: int = 1) -> list[Document]:
        """Return tokens that were free when they were read; none if the view has none.

        :param client: the pool
        :param count: the most tokens to return
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
        if not taken and not (reader.is_resting and selection.seconds_left() > 0):
            window.extend(reader.read(client, count))
            selection.move(window, taken, count)
        selection.note_taken(len(taken))
        return taken

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
