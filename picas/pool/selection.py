"""Which free tokens a pilot can take now: those that fit it, whose time has come, and that it has room for."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Callable

from ..clients import CouchDB
from ..documents import Document
from ..tokens.resources import Room, needs_of
from ..tokens.retries import FIELD, not_before
from .waiting import Larger, Postponed, read_unchanged

Fits = Callable[[Mapping[str, Any]], bool]
"""Returns whether a token, given its content, fits the pilot."""


def fits_always(token: Mapping[str, Any]) -> bool:
    """Return True: any token fits."""
    return True


class Selection:
    """Selects the tokens of a view that can be taken now, and sets the others aside for later."""

    def __init__(self) -> None:
        self._fits: Fits = fits_always
        self._has_refused = False  # whether a token did not fit
        self._room: Room | None = None
        self._postponed = Postponed()
        self._larger = Larger()

    def choose(self, fits: Fits, room: Room | None) -> bool:
        """Set what can be taken from now on.

        :param fits: whether a token fits the pilot; a token that does not is left alone until this changes
        :param room: what the pilot has left for further tokens, None if it works on one at a time
        :returns: whether the tokens that were set aside are forgotten, so that the view has to be read again
        """
        starts_anew = (fits != self._fits and self._has_refused) or (room is None and bool(self._larger))
        if starts_anew:
            self._postponed.clear()
            self._larger.clear()
            self._has_refused = False
        self._fits, self._room = fits, room
        return starts_anew

    def begin_view(self) -> None:
        """Forget the tokens that were set aside, since the view is about to be read from its beginning.

        The oldest of the larger tokens is kept, and with it the count of those that have overtaken it.
        """
        self._postponed.clear()
        self._larger.clear(keep_oldest=True)

    def accepts(self, token: Mapping[str, Any]) -> bool:
        """Return whether a free token can be taken now, and set it aside if not. One that does not fit waits for ever.

        This compares the clock of the machine that wrote the time with our own, but decides nothing about a lock: if
        one of the clocks is wrong, the token is taken earlier or later, and that is all.

        :param token: its content
        """
        when = not_before(token) if FIELD in token else -math.inf
        if not self._fits(token):
            when, self._has_refused = math.inf, True
        elif when <= time.time():
            needs = needs_of(token)
            if self._room is None or needs.is_plain or self._room.fits(needs):
                return True  # a plain token fits once there is a slot, and may wait for it
            self._larger.add(token)
            return False
        self._postponed.add(token, when)
        return False

    def move(self, window: deque[Document], taken: list[Document], count: int) -> None:
        """Move tokens that can still be taken from a window to those that are taken. Drop the others.

        :param window: tokens that this accepted when they were read; since then there may be less time or room
        :param taken: tokens that are taken together with them
        :param count: the most tokens in `taken` afterwards
        """
        room = self._room
        if room is not None:
            for token in taken:
                room = room.without(needs_of(token.value))
        while window and len(taken) < count:
            token = window.popleft()
            if not self._fits(token.value):
                continue
            if room is not None:
                needs = needs_of(token.value)
                if not room.fits(needs):
                    if needs.is_plain:
                        window.appendleft(token)
                        return
                    self._larger.add(token.value)
                    continue
                room = room.without(needs)
            taken.append(token)

    def move_ahead(self, window: deque[Document], taken: list[Document], count: int) -> None:
        """Move tokens that are to wait for a slot. The first one that needs more than a slot, or a GPU, ends this.

        :param window: as for `move`
        :param taken: as for `move`
        :param count: the most tokens to move
        """
        if self._room is not None and any(needs_of(token.value).cores > 1 for token in taken):
            return  # slots stay empty beside it, and must not take a token that waits
        while window and count > 0:
            needs = needs_of(window[0].value)
            if not needs.is_plain if self._room is not None else needs.gpus:
                return
            token = window.popleft()
            if self._fits(token.value):
                taken.append(token)
                count -= 1

    # --- the tokens that were set aside

    @property
    def has_set_aside(self) -> bool:
        """Whether there are tokens that were set aside."""
        return bool(self._postponed) or bool(self._larger)

    @property
    def has_larger(self) -> bool:
        """Whether there are tokens that wait for more room."""
        return bool(self._larger)

    def seconds_left(self) -> float:
        """Return the seconds until the first token that waits for its time may be taken, infinity if there is none."""
        return self._postponed.seconds_left()

    def take_due(self, client: CouchDB, count: int, in_random_order: bool) -> list[Document]:
        """Return tokens whose time has come and that fit, and forget them.

        A token that has changed meanwhile is only forgotten: the next reading of the view finds it.

        :param client: the pool
        :param count: the most tokens to read
        :param in_random_order: for pilots that know the same tokens; otherwise the earliest comes first
        """
        due = self._postponed.due()
        ids = list(due)
        if in_random_order:
            random.shuffle(ids)
        del ids[count:]
        unchanged = read_unchanged(client, {id: due[id] for id in ids})
        for id in ids:
            self._postponed.forget(id)
        return [token for token in unchanged if self._fits(token.value)]

    def take_larger(self, client: CouchDB, count: int) -> list[Document]:
        """Return tokens that there is room for by now, the oldest first, and forget them."""
        if self._room is None or not self._larger:
            return []
        return self._larger.take(client, self._room, count)

    def blocks_others(self, client: CouchDB) -> bool:
        """Return whether other tokens have to wait because a larger one has its turn."""
        return self._room is not None and self._larger.block(client)

    def note_taken(self, count: int) -> None:
        """Note how many tokens were taken, which the larger ones count."""
        if self._room is not None:
            self._larger.note_overtaken(self._room, count)
