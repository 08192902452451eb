"""How fast the tokens of a pool come to their end, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..clients import CouchDB
from .history import MINUTE, Bin, ends_by_minute

WINDOW = 15
"""Minutes over which the rate is taken at most."""
LEAST_WINDOW = 60.0
"""Seconds that have to be known for a rate: the ends of attempts are counted by the minute."""
LEAST_ENDED = 20
"""Tokens that have to end within the window before the time left is estimated."""

_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0))


@dataclass(frozen=True)
class Rate:
    """How many tokens have come to their end, done or in error, within some time."""

    ended: int
    seconds: float
    """The time over which they were counted."""

    @property
    def per_minute(self) -> float:
        """Tokens a minute."""
        return 60 * self.ended / self.seconds

    def seconds_for(self, count: int) -> float | None:
        """Return how many seconds a number of tokens takes at this rate, None if too few have ended to say that."""
        return count * self.seconds / self.ended if self.ended >= LEAST_ENDED else None


def find_rate(client: CouchDB, now: float, since: float | None = None) -> Rate | None:
    """Return how many tokens have ended within the last minutes; None if that was none, or is not known yet.

    A token counts at the end of its last attempt if that has left it done or in error. A failure after which it is
    tried again does not count, and neither does one that was put back. The times are those of the pilots' clocks.

    :param client: the pool
    :param now: the time, in seconds since the epoch
    :param since: when the oldest of the pilots has started. If nothing has ended before that, the time counts from it.
    :raises couchdb.ResourceNotFound: if there is no design document Report
    """
    return rate_of(ends_by_minute(client, now - MINUTE * WINDOW, now), now, since)


def rate_of(history: Sequence[Bin], now: float, since: float | None = None) -> Rate | None:
    """Return what `find_rate` does from what is known already.

    :param history: the attempts that have ended, in bins of one minute, with those of the last `WINDOW` minutes
    :param now: the time at which the history was read, in seconds since the epoch
    :param since: see `find_rate`
    """
    begin = float(MINUTE * (now // MINUTE - WINDOW))
    bins = [bin for bin in history if begin <= bin.start <= now and bin.by_outcome]
    if since is not None and begin < since < now and all(bin.start // MINUTE >= since // MINUTE for bin in bins):
        begin = since
    ended, seconds = sum(bin.total.tokens for bin in bins), now - begin
    return Rate(ended, seconds) if ended and seconds >= LEAST_WINDOW else None


def rough_duration(seconds: float) -> str:
    """Return a duration in one unit, rounded to two digits: "50 s", "1.5 h", "22 h", "120 d"."""
    in_units = ((float(f"{seconds / length:.2g}"), unit) for unit, length in _UNITS)
    number, unit = next(((number, unit) for number, unit in in_units if number >= 1), (float(f"{seconds:.2g}"), "s"))
    return f"{number:g} {unit}"
