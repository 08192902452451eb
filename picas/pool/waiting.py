"""Free tokens that a pilot passes over for now: those that wait for their next try, and those that need more room.

It remembers them, and takes them from here when their time has come, rather than read the view again and again for the
one of many that may be taken now.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from typing import Any

from ..clients import CouchDB
from ..documents import Document
from ..tokens.resources import Resources, Room, needs_of

MAX_REMEMBERED = 10_000
"""How many tokens of each kind a pilot remembers of one view."""
LEAST_TURNS = 1
MOST_TURNS = 4
"""After how many times as many smaller tokens as the pilot has slots a larger one has its turn, at random between
these: slots stay empty then until there is room for it. Not all pilots that wait for the same token are to do so at
once."""


class Postponed:
    """The tokens of a view that are not to be taken before some time, as far as a pilot has seen them."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[float, str]] = {}  # when, and in which revision, by id

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def add(self, token: Mapping[str, Any], when: float) -> None:
        """Remember a token.

        :param token: its content
        :param when: the time before which it is not to be taken, in seconds since the epoch
        """
        if len(self._tokens) < MAX_REMEMBERED:  # more are found when the view is read again
            self._tokens[token["_id"]] = (when, token["_rev"])

    def clear(self) -> None:
        """Forget all tokens."""
        self._tokens.clear()

    def due(self) -> dict[str, str]:
        """Return the revisions by id of the tokens whose time has come, those that came first first."""
        now = time.time()
        ready = sorted((when, id, rev) for id, (when, rev) in self._tokens.items() if when <= now)
        return {id: rev for _, id, rev in ready}

    def forget(self, id: str) -> None:
        """Forget a token; one that is not remembered is fine."""
        self._tokens.pop(id, None)

    def seconds_left(self) -> float:
        """Return after how many seconds the first of them may be taken, 0 if one may be now; infinity without any."""
        if not self._tokens:
            return math.inf
        return max(0.0, min(when for when, _ in self._tokens.values()) - time.time())


class Larger:
    """The tokens of a view that the pilot has too little room for while it works on others.

    Smaller tokens pass them, so that no slot is empty without need; but not for ever: then they would never have their
    turn.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[Resources, str]] = {}  # needs, and in which revision, by id; the oldest is first
        self._passed = 0  # tokens that were taken since the first of these was seen
        self._turns = random.uniform(LEAST_TURNS, MOST_TURNS)
        self._has_turn = False  # whether the first has been passed often enough

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def add(self, token: Mapping[str, Any]) -> None:
        """Remember a token, by its content."""
        if len(self._tokens) < MAX_REMEMBERED:  # more are found when the view is read again
            self._tokens.setdefault(token["_id"], (needs_of(token), token["_rev"]))

    def clear(self, but_first: bool = False) -> None:
        """Forget all tokens, or all but the one that has waited for the longest."""
        for id in list(self._tokens)[1 if but_first else 0 :]:
            self.forget(id)

    def take(self, database: CouchDB, room: Room, count: int) -> list[Document]:
        """Return up to so many of them that there is room for by now, the oldest first, and forget them.

        What has changed meanwhile is left to the view.
        """
        taken: list[Document] = []
        while True:
            revs = self._fitting(room, count - len(taken))
            unchanged = read_unchanged(database, revs)
            for id in revs:
                self.forget(id)
            for document in unchanged:
                room = room.without(needs_of(document.value))
            taken += unchanged
            if len(unchanged) == len(revs):  # also if there are none
                return taken

    def note_others(self, room: Room, count: int) -> None:
        """Take note of so many tokens that were taken rather than the first of these."""
        self._passed += count if self._tokens else 0
        self._has_turn = self._passed >= self._turns * room.total

    def block(self, database: CouchDB) -> bool:
        """Tell whether smaller tokens are to wait, since one of these has its turn."""
        while self._has_turn and self._tokens:
            id, (_, rev) = next(iter(self._tokens.items()))
            if read_unchanged(database, {id: rev}):
                return True
            self.forget(id)
        return False

    def forget(self, id: str) -> None:
        """Forget a token; if it was the oldest the next one begins to count."""
        if id == next(iter(self._tokens), None):
            self._passed = 0
            self._has_turn = False
            self._turns = random.uniform(LEAST_TURNS, MOST_TURNS)
        self._tokens.pop(id, None)

    def _fitting(self, room: Room, count: int) -> dict[str, str]:
        """Return the revisions by id of up to so many that there is room for side by side."""
        found: dict[str, str] = {}
        for id, (needs, rev) in self._tokens.items():
            if len(found) < count and room.fits(needs):
                found[id] = rev
                room = room.without(needs)
            elif self._has_turn:
                break  # nothing passes the first
        return found


def read_unchanged(database: CouchDB, revs: Mapping[str, str]) -> list[Document]:
    """Return those tokens that still have the revision by which they are known here."""
    if not revs:
        return []
    return [document for document in database.get_documents(revs) if document.rev == revs[document.id]]
