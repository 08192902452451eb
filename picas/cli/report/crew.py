"""The pilots of a report: when each was there, and how busy their slots were when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...clients import CouchDB
from ...pilot.fleet import PilotSummary, ended_pilots, list_pilots
from ...pilot.identity import DEAD

MAX_ENDED = 20_000
"""The most pilots that are read of those that have ended, the newest."""
MAX_LANES = 200
"""The most pilots that have a lane each; of more, several share a row."""
ROWS = 36
"""The most rows that many pilots share."""
CELLS = 1_800
"""The most cells of rows and columns."""
MARKS = 1_400
"""The most places for marks on lanes."""
DEATHS = 150
"""The most marks for deaths in rows that pilots share."""
MAX_COLUMNS = 200
_HOUR, _DAY = 3600, 86_400
_COLUMNS = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(_HOUR, 2 * _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 2 * _DAY, 7 * _DAY, 28 * _DAY, 364 * _DAY),
)  # widths of columns, in seconds
_TOLERANCE = 3600.0
"""Seconds by which the clock of a pilot may be ahead of this machine's before what it says counts as wrong."""


@dataclass(frozen=True)
class Life:
    """When a pilot was there, by its own clock, in seconds since the epoch."""

    pilot: PilotSummary
    start: float
    end: float
    """When it has ended, or has given its last sign of life; now if it runs."""

    @property
    def is_dead(self) -> bool:
        """Whether other pilots have found it dead."""
        return self.pilot.state == DEAD


@dataclass(frozen=True)
class Crew:
    """The pilots that are known."""

    pilots: tuple[PilotSummary, ...]
    lives: dict[str, Life]
    """By their ids, those whose times are known, in the order of their starts."""
    are_all: bool
    """Whether all that have ended within the last days were read."""


def read_crew(client: CouchDB, now: float) -> Crew:
    """Read the pilots that run, those that were found dead, and those that have ended lately.

    :param now: the time, in seconds since the epoch
    """
    ended = ended_pilots(client, MAX_ENDED + 1)
    pilots = [*list_pilots(client), *ended[:MAX_ENDED]]
    lives = [life for life in (_life_of(pilot, now) for pilot in pilots) if life is not None]
    lives.sort(key=lambda life: (life.start, life.pilot.id))
    return Crew(tuple(pilots), {life.pilot.id: life for life in lives}, len(ended) <= MAX_ENDED)


def _life_of(pilot: PilotSummary, now: float) -> Life | None:
    times = pilot.times
    if pilot.state == DEAD or pilot.silent_since(now) is not None:
        end = times.saved
    else:
        end = now if pilot.is_running else times.end
    if times.start is None or end is None or times.start > now + _TOLERANCE:
        return None
    end = min(end, now)
    return Life(pilot, times.start, end) if times.start <= end else None


class Grid:
    """The slots of pilots over time, in rows and columns: how many there were, how many were at work, and marks.

    :param crew: the pilots
    :param start: the beginning of the window, in seconds since the epoch
    :param end: its end
    """

    def __init__(self, crew: Crew, start: float, end: float) -> None:
        shown = [life for life in crew.lives.values() if life.end > start and life.start < end]
        self.has_lanes = len(shown) <= MAX_LANES
        """Whether each pilot has a row of its own."""
        per_row = 1 if self.has_lanes else math.ceil(len(shown) / ROWS)
        self.rows = [shown[first : first + per_row] for first in range(0, len(shown), per_row)]
        """The pilots of each row."""
        self.left_out = len(crew.pilots) - len(shown)
        """How many pilots are not in it: their times are unknown, wrong, or outside of the window."""
        self._row_of = {life.pilot.id: row for row, lives in enumerate(self.rows) for life in lives}
        room = (MARKS if self.has_lanes else CELLS) // max(1, len(self.rows))
        most = max(2, min(MAX_COLUMNS, room - 1))  # the first column may begin before the window
        self.width = next((width for width in _COLUMNS if end - start <= width * most), _COLUMNS[-1])
        """The width of a column, in seconds."""
        self.start = start // self.width * self.width
        self.end = end
        size = max(1, math.ceil((end - self.start) / self.width))
        self.columns = [self.start + self.width * number for number in range(size)]
        """The start of each column, in seconds since the epoch."""
        self.slots, self.busy, self.retries, self.failures = (
            [[0.0] * size for _ in self.rows] for _ in range(4)
        )  # seconds of slots, and numbers of attempts
        for row, lives in enumerate(self.rows):
            for life in lives:
                self._spread(self.slots[row], life.start, life.end, life.pilot.slots or 0)

    def work(self, pilot: str | None, start: float, end: float, slots: int) -> None:
        """Note that slots of a pilot were at work.

        :param pilot: the id of the pilot, None if it is unknown
        :param start: seconds since the epoch, as `end`
        :param slots: how many were at work
        """
        row = self._row_of.get(pilot or "")
        if row is not None:
            self._spread(self.busy[row], start, end, slots)

    def mark(self, marks: Sequence[list[float]], pilot: str | None, when: float) -> None:
        """Add a mark.

        :param marks: `retries` or `failures`
        :param when: seconds since the epoch
        """
        row, column = self._row_of.get(pilot or ""), int((when - self.start) // self.width)
        if row is not None and 0 <= column < len(self.columns):
            marks[row][column] += 1

    def shares(self, row: int) -> list[float | None]:
        """Return the share of the slots of a row that were at work in each column, None where there were none."""
        return [min(1.0, busy / slots) if slots else None for busy, slots in zip(self.busy[row], self.slots[row])]

    def _spread(self, cells: list[float], start: float, end: float, slots: int) -> None:
        first = max(0, int((start - self.start) // self.width))
        last = min(len(cells) - 1, int((end - self.start) // self.width))
        for column in range(first, last + 1):
            begin = self.start + column * self.width
            cells[column] += slots * max(0.0, min(end, begin + self.width) - max(start, begin))


def slots_held(cores: int | None, slots: int | None) -> int:
    """Return how many slots of a pilot a token takes: one for each core, but never more than there are."""
    return max(1, cores or 1) if slots is None else min(max(1, cores or 1), max(1, slots))
