"""How many tokens a pilot may hold: short tokens are locked and saved many at a time, long ones one by one."""

from __future__ import annotations

import random
from collections.abc import Iterable

CLAIM_AHEAD = 2.0
"""Seconds of work that a pilot may hold, and the longest time for which it may hold a result, by default."""
MOST_PER_SLOT = 64
"""The most tokens that a pilot holds for each slot."""
MOST = 256
"""The most tokens that a pilot holds: more of them would make its requests large, and no token cheaper."""
RECENT = 8
"""The next token is expected to take as long as the longest of this many before it for each slot."""
QUICK = 0.25
"""The share of `claim_ahead` that is kept for saving results, and for putting waiting tokens back."""
SLOW = 0.5
"""The largest such share: if a request takes longer, the next is for fewer tokens."""
TOLERANCE = 1.25
"""A pilot keeps up to so many times the tokens that it would lock now, before it puts some back."""
MANY = 1e9
"""More tokens than a pilot ever holds."""
MOMENT = 1e-6
"""The shortest time that a token takes, in seconds."""


class Pace:
    """Learns how long tokens take, and decides how many of them the pilot may hold.

    :param seconds: the `claim_ahead` of the pilot; 0 for no more tokens than it has slots
    :param slots: the number of its slots
    """

    def __init__(self, seconds: float, slots: int) -> None:
        self.is_on = seconds > 0
        """Whether tokens are locked ahead."""
        self.patience = (1 - QUICK) * seconds
        """Seconds after which a result is saved, or tokens that wait behind a long one are put back."""
        self._seconds = seconds
        self._slots = slots
        self._allowed = slots  # by the requests so far
        self._recent: list[float] = []  # seconds that the last tokens took
        self._is_out_of_step = False

    @property
    def usual(self) -> float:
        """Seconds that a token is expected to take."""
        return max(self._recent, default=0.0)

    def note(self, seconds: float) -> None:
        """Note how long the work on a token took."""
        self._recent.append(seconds)
        if len(self._recent) > RECENT * self._slots:
            del self._recent[0]
        if seconds > self._seconds:
            self._allowed = self._slots  # begins anew

    def note_request(self, seconds: float) -> None:
        """Note how long it took to lock tokens and to save others."""
        share = seconds / self._seconds if self.is_on else 0.0
        self.patience = (1 - min(max(share, QUICK), SLOW)) * self._seconds
        if share > SLOW:
            self._allowed = max(self._slots, self._allowed // 2)
        else:
            self._allowed = min(2 * self._allowed, MOST_PER_SLOT * self._slots, max(MOST, self._slots))
            self._get_out_of_step()

    def _get_out_of_step(self) -> None:
        """Hold a random number of tokens once, when for the first time no more of them could end in time.

        Pilots that are started together would go on to send their requests together, each time that they have used up
        what they hold, and wait for each other.
        """
        most = self._in_time(())
        if self._recent and self._allowed > most and not self._is_out_of_step:
            self._is_out_of_step = True
            self._allowed = random.randint(self._slots, most)

    def most(self, at_work: Iterable[float] = ()) -> int:
        """Return the most tokens that the pilot may lock, those that it has included: at least one for each slot.

        :param at_work: for how many seconds the tokens in the slots have been at work
        """
        return min(self._allowed, self._in_time(at_work)) if self.is_on and self._recent else self._slots

    def surplus(self, held: int, at_work: Iterable[float] = ()) -> int:
        """Return how many tokens are to be put back, since they would have to wait for too long.

        :param held: how many tokens are in the slots or wait for one; more than there are slots
        :param at_work: for how many seconds those in the slots have been at work
        """
        most = self._in_time(at_work)
        return held - most if held > TOLERANCE * most or most == self._slots else 0

    def _in_time(self, at_work: Iterable[float]) -> int:
        """Return how many tokens are expected to end in time; at least one for each slot."""
        so_far = max(at_work, default=0.0)
        longest = max(self.usual, so_far, MOMENT)
        if so_far >= self.patience:
            return self._slots
        return max(self._slots, int(min(self._slots * self._seconds / longest, MANY)))
