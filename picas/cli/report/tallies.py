"""What a survey adds up over the attempts on tokens."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

from ...pool.facts import PastAttempt
from .bins import Classes, Distribution

DONE, FAILED, STOPPED, LOST = "done", "failed", "stopped", "lost"
"""What attempts come to, in short."""
SHORT = (DONE, FAILED, STOPPED, LOST)
SHORT_OF = {
    "done": DONE,
    "failed": FAILED,
    "time-out": FAILED,
    "cancelled": FAILED,
    "stopped": STOPPED,
    "lost": LOST,
    "taken away": LOST,
    "left open": STOPPED,
}
"""What an attempt comes to, by its outcome."""
OTHER = "other"
"""What attempts come to whose outcome is unknown."""
FAILURES = tuple(outcome for outcome, short in SHORT_OF.items() if short == FAILED)
DURATIONS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18_000, 36_000, 86_400)
"""The edges of the classes of durations, in seconds."""
MOST_SLOW = 1_000
"""How many of the slowest attempts are kept."""
MOST_AMOUNTS = 200
"""The most different amounts of memory that are told apart."""
MOST_NAMES = 1_000
"""The most different names of software that are told apart."""
MOST_OUTCOMES = 20
"""The most different outcomes that are told apart."""
MOST_GROUPS = 5_000
"""The most groups of failures that are told apart."""
OTHERS = "others"


@dataclass
class OutcomeTally:
    """Attempts with the same outcome."""

    attempts: int = 0
    seconds: Distribution = field(default_factory=Distribution)
    """How long they took, of those that say so."""
    classes: Classes = field(default_factory=lambda: Classes(DURATIONS))
    """The same in the classes of DURATIONS."""
    core_seconds: float = 0.0
    """Their seconds times the cores that they held, added up."""
    costed: int = 0
    """How many attempts are in this sum."""
    cpu_seconds: float = 0.0
    """Their seconds on processors, added up over those of which `cpu_core_seconds` has the cores' seconds."""
    cpu_core_seconds: float = 0.0

    def add(self, seconds: float | None, cores: int | None, cpu_seconds: float | None) -> None:
        """Add an attempt. What is None is unknown.

        :param seconds: how long it took
        :param cores: how many cores it held
        :param cpu_seconds: its seconds on processors
        """
        self.attempts += 1
        if seconds is None or seconds < 0:
            return
        self.seconds.add(seconds)
        self.classes.add(seconds)
        if cores is None or cores < 0:
            return
        self.costed += 1
        self.core_seconds += seconds * cores
        if cpu_seconds is not None and cpu_seconds >= 0:
            self.cpu_seconds += cpu_seconds
            self.cpu_core_seconds += seconds * cores


@dataclass
class GroupTally:
    """Failures in the same way."""

    group: str
    """Its id, "" for those of which an older release has left none."""
    attempts: int = 0
    """How many attempts have failed so."""
    in_error: int = 0
    """How many tokens are in error now because of it."""
    first: float | None = None
    """When the first of these attempts ended, in seconds since the epoch."""
    last: float | None = None
    reason: str | None = None
    """That of the last of them."""
    token: str = ""
    """The token of the last of them."""
    logged: str = ""
    """A token with a log of such an attempt, "" if none is known."""
    tail: str = ""
    """The end of this log."""
    tail_name: str = ""
    """Its name."""

    @property
    def is_rest(self) -> bool:
        """Whether it is no group, but stands for all that are no longer told apart."""
        return self.group == OTHERS

    def add(self, token: str, attempt: PastAttempt, is_last: bool) -> None:
        """Add a failed attempt.

        :param token: the id of its token
        :param is_last: whether this token is in error now because of it
        """
        self.attempts += 1
        self.in_error += is_last
        end = attempt.end
        if end is not None:
            self.first = end if self.first is None else min(self.first, end)
        is_newer = self.last is None or (end is not None and end >= self.last)
        if is_newer or not self.token:
            self.last, self.token, self.reason = end if end is not None else self.last, token, attempt.reason


@dataclass(frozen=True, order=True)
class Slow:
    """An attempt that took long."""

    seconds: float
    token: str
    number: int
    """The place of the attempt among those that the token keeps, beginning with 1."""
    outcome: str
    host: str
    start: float
    """Seconds since the epoch, 0 if unknown."""
    cores: int
    """0 if unknown."""
    reason: str


class Slowest:
    """Keeps the longest attempts."""

    def __init__(self) -> None:
        self._heap: list[Slow] = []

    def add(self, token: str, attempt: PastAttempt) -> None:
        """Add an attempt, if its duration is known."""
        if attempt.seconds is None or (len(self._heap) == MOST_SLOW and attempt.seconds <= self._heap[0].seconds):
            return
        slow = Slow(
            attempt.seconds,
            token,
            attempt.number,
            attempt.outcome or "",
            attempt.host or "",
            attempt.start or 0.0,
            attempt.cores or 0,
            attempt.reason or "",
        )
        (heapq.heappush if len(self._heap) < MOST_SLOW else heapq.heappushpop)(self._heap, slow)

    def list(self) -> list[Slow]:
        """Return them, the longest first."""
        return sorted(self._heap, reverse=True)


class MemoryTally:
    """The memory that attempts used, by what their tokens asked for."""

    def __init__(self) -> None:
        self.used: dict[float | None, Distribution] = {}
        """Megabytes, by the megabytes that were asked for; 0 for those that asked for none, None for further ones."""
        self.above: Counter[float] = Counter()
        """How many used more than they had asked for."""

    def add(self, asked: float, used: float | None) -> None:
        """Add an attempt, if what it used is known.

        :param asked: the megabytes that it asked for, 0 for none
        :param used: the megabytes that it used, None if unknown
        """
        if used is None or used < 0:
            return
        key = asked if asked in self.used or len(self.used) < MOST_AMOUNTS else None
        self.used.setdefault(key, Distribution()).add(used)
        if asked and used > asked:
            self.above[asked] += 1


def group_of(groups: dict[str, GroupTally], name: str) -> GroupTally:
    """Return the tally of a group of failures; when there are too many different ones, that of `OTHERS`."""
    key = name if name in groups or len(groups) < MOST_GROUPS else OTHERS
    return groups.setdefault(key, GroupTally(key))


def count_name(names: Counter[str], name: str, most: int = MOST_NAMES) -> None:
    """Count a name; when there are too many different ones, count further ones as `OTHERS`."""
    names[name if name in names or len(names) < most else OTHERS] += 1


def tally_of(tallies: dict[str, OutcomeTally], outcome: str) -> OutcomeTally:
    """Return the tally of an outcome; when there are too many different ones, that of `OTHERS`."""
    key = outcome if outcome in tallies or len(tallies) < MOST_OUTCOMES else OTHERS
    return tallies.setdefault(key, OutcomeTally())
