"""Free tokens that a pilot can't take yet: those that wait for their time, and those that need more room than is left.

The pilot remembers these tokens when it reads a view, and takes them from here later. Otherwise it would have to read
the view again and again to find the few of them that it can take by then.
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
from .reading import read_documents

MAX_REMEMBERED = 10_000
"""The most tokens of each kind that a pilot remembers of one view."""
LEAST_TURNS = 1
MOST_TURNS = 4
"""A large token gets its turn after 1 to 4 times `slots` smaller tokens have overtaken it. From then on slots stay
empty until there is room for it. The number is random, so that pilots that wait for the same token do not all do that
at once."""


class Postponed:
    """The tokens of a view that may not be taken before a certain time."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[float, str]] = {}  # time and revision by id

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def add(self, token: Mapping[str, Any], when: float) -> None:
        """Remember a token.

        :param token: its content
        :param when: the time before which it may not be taken, in seconds since the epoch
        """
        if len(self._tokens) < MAX_REMEMBERED:  # the next reading of the view finds the others
            self._tokens[token["_id"]] = (when, token["_rev"])

    def clear(self) -> None:
        """Forget all tokens."""
        self._tokens.clear()

    def due(self) -> dict[str, str]:
        """Return the tokens whose time has come, the earliest first: revisions by id."""
        now = time.time()
        ready = sorted((when, id, rev) for id, (when, rev) in self._tokens.items() if when <= now)
        return {id: rev for _, id, rev in ready}

    def forget(self, id: str) -> None:
        """Forget a token, if it is remembered."""
        self._tokens.pop(id, None)

    def seconds_left(self) -> float:
        """Return the seconds until the first token may be taken: 0 if one may be now, infinity if there is none."""
        if not self._tokens:
            return math.inf
        return max(0.0, min(when for when, _ in self._tokens.values()) - time.time())


class Larger:
    """The tokens of a view that need more room than the pilot has left while it works on other tokens.

    Smaller tokens overtake them, so that no slot is empty without need. That is limited: after some time the oldest of
    them gets its turn.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[Resources, str]] = {}  # needs and revision by id, the oldest first
        self._overtaken = 0  # how many tokens were taken since the oldest one was seen
        self._turns = random.uniform(LEAST_TURNS, MOST_TURNS)
        self._has_turn = False  # whether the oldest one was overtaken often enough

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def add(self, token: Mapping[str, Any]) -> None:
        """Remember a token, given its content."""
        if len(self._tokens) < MAX_REMEMBERED:  # the next reading of the view finds the others
            self._tokens.setdefault(token["_id"], (needs_of(token), token["_rev"]))

    def clear(self, keep_oldest: bool = False) -> None:
        """Forget all tokens, or all but the oldest."""
        for id in list(self._tokens)[1 if keep_oldest else 0 :]:
            self.forget(id)

    def take(self, client: CouchDB, room: Room, count: int) -> list[Document]:
        """Return tokens that there is room for now, the oldest first, and forget them.

        A token that has changed meanwhile is only forgotten: the next reading of the view finds it.

        :param client: the pool
        :param room: what the pilot has left
        :param count: the most tokens to return
        """
        taken: list[Document] = []
        while True:
            revs = self._fitting(room, count - len(taken))
            unchanged = read_unchanged(client, revs)
            for id in revs:
                self.forget(id)
            for token in unchanged:
                room = room.without(needs_of(token.value))
            taken += unchanged
            if len(unchanged) == len(revs):  # also if there are none
                return taken

    def note_overtaken(self, room: Room, count: int) -> None:
        """Note that other tokens were taken.

        :param room: what the pilot has left
        :param count: the number of those tokens
        """
        self._overtaken += count if self._tokens else 0
        self._has_turn = self._overtaken >= self._turns * room.total

    def block(self, client: CouchDB) -> bool:
        """Return whether smaller tokens have to wait because the oldest token has its turn."""
        while self._has_turn and self._tokens:
            id, (_, rev) = next(iter(self._tokens.items()))
            if read_unchanged(client, {id: rev}):
                return True
            self.forget(id)
        return False

    def forget(self, id: str) -> None:
        """Forget a token. If it was the oldest, the count starts again for the next one."""
        if id == next(iter(self._tokens), None):
            self._overtaken = 0
            self._has_turn = False
            self._turns = random.uniform(LEAST_TURNS, MOST_TURNS)
        self._tokens.pop(id, None)

    def _fitting(self, room: Room, count: int) -> dict[str, str]:
        """Return up to `count` tokens that there is room for side by side: revisions by id."""
        found: dict[str, str] = {}
        for id, (needs, rev) in self._tokens.items():
            if len(found) < count and room.fits(needs):
                found[id] = rev
                room = room.without(needs)
            elif self._has_turn:
                break  # nothing overtakes the oldest one
        return found


def read_unchanged(client: CouchDB, revs: Mapping[str, str]) -> list[Document]:
    """Return the tokens that still have the given revisions, by id."""
    if not revs:
        return []
    return [token for token in read_documents(client, revs) if token.rev == revs[token.id]]
