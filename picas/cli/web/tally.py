"""How many attempts have ended since the page was started: a count that never falls, as Prometheus wants it."""

from __future__ import annotations

from collections.abc import Sequence

from ...pool.history import MINUTE, Bin

OPEN = 30
"""Minutes for which a minute can still change: results that could not be saved at once, clocks that are behind."""


class EndsTally:
    """Adds up ends of attempts from looks at the last minutes, which overlap.

    An attempt may leave the pool, because somebody deletes its token: its end stays counted.

    :param start: the time from which on ends count, in seconds since the epoch; its whole minute counts
    """

    def __init__(self, start: float) -> None:
        self._first = MINUTE * int(start // MINUTE)
        self._closed: dict[str, int] = {}  # the ends in minutes that change no more, by outcome
        self._open: dict[tuple[int, str], int] = {}  # the most that was seen of each other minute and outcome
        self._at_start: dict[tuple[int, str], int] | None = None
        self._horizon = self._first

    @property
    def known_until(self) -> float:
        """The time from which on the next look must have the ends, in seconds since the epoch."""
        return float(self._horizon)

    def add(self, bins: Sequence[Bin]) -> None:
        """Take note of the ends in some minutes.

        :param bins: minutes, the oldest first
        """
        seen = {
            (minute.start, outcome): ends.attempts
            for minute in bins
            for outcome, ends in minute.by_outcome.items()
            if minute.start >= self._horizon
        }
        if self._at_start is None:  # what the first minute had already when the page was started
            self._at_start = {key: count for key, count in seen.items() if key[0] == self._first}
        for key, count in seen.items():
            self._open[key] = max(self._open.get(key, 0), count - self._at_start.get(key, 0))
        if bins:
            self._close(bins[-1].start - MINUTE * OPEN)

    def _close(self, horizon: int) -> None:
        for key in [key for key in self._open if key[0] < horizon]:
            self._closed[key[1]] = self._closed.get(key[1], 0) + self._open.pop(key)
        self._horizon = max(self._horizon, horizon)

    def totals(self) -> dict[str, int]:
        """Return how many attempts have ended, by outcome; '' for an unknown one."""
        totals = dict(self._closed)
        for (_, outcome), count in self._open.items():
            totals[outcome] = totals.get(outcome, 0) + count
        return totals
