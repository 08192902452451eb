"""How the attempts of a pool have ended: how many in each stretch of time, and the newest of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..clients import CouchDB
from ..views import ENDED, RECENT, REPORT
from .facts import EARLIEST, LATEST

MINUTE = 60
"""Seconds of a minute: the ends are counted by the minute."""
MAX_BINS = 2_000
"""The most bins of a history, unless another number is asked for."""


@dataclass(frozen=True)
class Ends:
    """Attempts that have ended."""

    attempts: int = 0
    tokens: int = 0
    """How many of them have brought their token to its end, done or in error."""
    seconds: float = 0.0
    """How long they took together."""
    cpu_seconds: float = 0.0
    """Their seconds on processors, as far as that is known."""

    def __add__(self, other: Ends) -> Ends:
        """Return the sums."""
        return Ends(
            self.attempts + other.attempts,
            self.tokens + other.tokens,
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
        )


@dataclass(frozen=True)
class Bin:
    """A stretch of time, and the attempts that have ended in it."""

    start: int
    """When it begins, in seconds since the epoch: the beginning of a minute."""
    minutes: int
    """Its length."""
    by_outcome: dict[str, Ends] = field(default_factory=dict)
    """The attempts by outcome, only those outcomes that there were; '' for an unknown one."""

    @property
    def total(self) -> Ends:
        """The attempts of all outcomes."""
        return sum(self.by_outcome.values(), Ends())


@dataclass(frozen=True)
class End:
    """The end of an attempt. What its entry does not say is None."""

    time: float
    """Seconds since the epoch, by the clock of the pilot."""
    token: str
    """The id of the token."""
    outcome: str | None
    reason: str | None
    """Why it did not succeed, on one line."""


def ends_by_minute(client: CouchDB, start: float, end: float, max_bins: int = MAX_BINS) -> list[Bin]:
    """Return how many attempts have ended within some time, in bins of equal length without gaps, the oldest first.

    It takes one request, whose answer has a row for each minute and outcome, however many tokens there are. A bin is a
    minute, or as many whole minutes as it takes to have few enough. A token keeps its last attempts only, so those of a
    token that was tried very often are not all counted.

    :param client: the pool
    :param start: seconds since the epoch; the first bin begins with the minute of it
    :param end: seconds since the epoch; the last bin holds the minute of it. If it is before `start`, there are no bins
    :param max_bins: the most bins to return
    :raises couchdb.ResourceNotFound: if there is no design document Report
    """
    first, last = int(start // MINUTE), int(end // MINUTE)
    if last < first:
        return []
    rows = client.view(ENDED, design_doc=REPORT, startkey=[first], endkey=[last, {}], group=True).rows
    length = max(1, -((first - last - 1) // max_bins))
    bins = [Bin(MINUTE * minute, length) for minute in range(first, last + 1, length)]
    for row in rows:
        minute, outcome = row.key
        attempts, seconds, cpu_seconds, tokens = row.value
        by_outcome = bins[(minute - first) // length].by_outcome
        added = Ends(int(attempts), int(tokens), float(seconds), float(cpu_seconds))
        by_outcome[outcome] = by_outcome.get(outcome, Ends()) + added
    return bins


def newest_ends(client: CouchDB, limit: int) -> list[End]:
    """Return the attempts that have ended last, the newest first, with one request.

    :param client: the pool
    :param limit: how many to return at most
    :raises couchdb.ResourceNotFound: if there is no design document Report
    """
    rows = client.view(RECENT, design_doc=REPORT, descending=True, startkey=LATEST, endkey=EARLIEST, limit=limit).rows
    return [End(float(row.key), str(row.id), *row.value) for row in rows]
