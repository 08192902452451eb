"""Numbers over time, and how values are distributed, added up one after the other in bounded memory."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

_DAY = 86_400
WIDTHS = (1, 5, 15, 60, 300, 900, 3600, 21_600, _DAY, 7 * _DAY, 28 * _DAY, 336 * _DAY, 10_080 * _DAY)
"""The widths of bins, in seconds; each divides the next."""
MOST_HELD = 4_096
"""The most bins that are held in memory."""
MOST_SHOWN = 400
"""The most bins that a chart has."""


def width_for(seconds: float) -> int:
    """Return the width of the bins for a span of time, in seconds."""
    return next((width for width in WIDTHS if seconds <= width * MOST_SHOWN), WIDTHS[-1])


class Timeline:
    """Adds up events in bins that become wider when there are too many.

    A count is the number of events in a bin. A level rises and falls with events, such as the number of tokens at work;
    how high it is, on average, in a bin is exact however wide the bin is: of each event is known, added up, how long it
    was before the bin's end.

    :param counts: the names of what is counted
    :param levels: the names of the levels
    :param begin: what is before this time (seconds since the epoch) is in no bin: counts leave it out, and levels begin
        with it
    """

    def __init__(self, counts: Sequence[str], levels: Sequence[str], begin: float | None = None) -> None:
        self.width = WIDTHS[0]
        """Seconds."""
        self.base = dict.fromkeys(levels, 0.0)
        """The levels before the first bin."""
        self._begin = -math.inf if begin is None else begin
        self._place_of_count = {name: place for place, name in enumerate(counts)}
        self._place_of_level = {name: len(counts) + 2 * place for place, name in enumerate(levels)}
        self._size = len(counts) + 2 * len(levels)
        self._bins: dict[int, list[float]] = {}

    def count(self, name: str, when: float, amount: float = 1) -> None:
        """Count an event.

        :param when: seconds since the epoch
        :param amount: what it counts for, in the unit of what is counted
        """
        if when >= self._begin:
            self._bin(when)[self._place_of_count[name]] += amount

    def change(self, name: str, when: float, amount: float) -> None:
        """Raise a level by an amount, or lower it.

        :param when: seconds since the epoch
        :param amount: in the unit of the level, negative to lower it
        """
        if when < self._begin:
            self.base[name] += amount
            return
        place = self._place_of_level[name]
        bin = self._bin(when)
        bin[place] += amount
        bin[place + 1] += amount * (self.width - when % self.width)

    def busy_times(self, name: str) -> list[tuple[float, float]]:
        """Return the start of each bin in which something was counted, in seconds since the epoch, and the count."""
        place = self._place_of_count[name]
        return sorted((number * self.width, bin[place]) for number, bin in self._bins.items() if bin[place])

    def counts(self, name: str, start: float, end: float, width: int) -> list[float]:
        """Return what was counted in each bin of a window.

        :param start: the beginning of the window, in seconds since the epoch
        :param end: its end
        :param width: the width of these bins in seconds, one of WIDTHS and not below `self.width`
        """
        place = self._place_of_count[name]
        found = [0.0] * _number_of_bins(start, end, width)
        for number, bin in self._bins.items():
            at = int(number * self.width // width - start // width)
            if 0 <= at < len(found):
                found[at] += bin[place]
        return found

    def level(self, name: str, start: float, end: float, width: int) -> tuple[list[float], list[float]]:
        """Return a level at the end of each bin of a window, and its mean in each. For the parameters see `counts`."""
        place = self._place_of_level[name]
        size = _number_of_bins(start, end, width)
        before, changes, areas = self.base[name], [0.0] * size, [0.0] * size
        for number, bin in self._bins.items():
            if not bin[place] and not bin[place + 1]:
                continue
            at = int(number * self.width // width - start // width)
            if at < 0:
                before += bin[place]
            elif at < size:
                until = (start // width + at + 1) * width - (number + 1) * self.width
                changes[at] += bin[place]
                areas[at] += bin[place + 1] + bin[place] * until
        ends = [value + before for value in accumulate(changes)]
        means = [begin + area / width for begin, area in zip([before, *ends], areas)]
        return ends, means

    def _bin(self, when: float) -> list[float]:
        number = int(when // self.width)
        bin = self._bins.get(number)
        if bin is None:
            if len(self._bins) >= MOST_HELD and self.width < WIDTHS[-1]:
                self._widen()
                return self._bin(when)
            bin = self._bins[number] = [0.0] * self._size
        return bin

    def _widen(self) -> None:
        """Make the bins wider."""
        width = WIDTHS[WIDTHS.index(self.width) + 1]
        old, self._bins = self._bins, {}
        levels = self._place_of_level.values()
        for number, bin in old.items():
            wider = self._bins.setdefault(number * self.width // width, [0.0] * self._size)
            until = (number * self.width // width + 1) * width - (number + 1) * self.width
            for place, value in enumerate(bin):
                wider[place] += value
            for place in levels:
                wider[place + 1] += bin[place] * until
        self.width = width


def edges_of(start: float, end: float, width: int) -> list[float]:
    """Return the starts of the bins of a window, in seconds since the epoch."""
    return [(start // width + number) * width for number in range(_number_of_bins(start, end, width))]


def _number_of_bins(start: float, end: float, width: int) -> int:
    return max(1, math.ceil(end / width) - int(start // width))


class Distribution:
    """How positive values are distributed: quantiles are known to within 2.5 %, the sum and the largest exactly."""

    _RATIO = math.log(1.05)

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.largest = 0.0
        self._bins: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Add a value; one below a thousandth counts as a thousandth in quantiles."""
        self.count += 1
        self.sum += value
        self.largest = max(self.largest, value)
        self._bins[round(math.log(max(value, 1e-3)) / self._RATIO)] += 1

    def quantile(self, share: float) -> float | None:
        """Return the value that a share of the values does not exceed, None if there are none."""
        left = share * self.count
        for number in sorted(self._bins):
            left -= self._bins[number]
            if left <= 1e-9:
                return min(math.exp(number * self._RATIO), self.largest)
        return None


class Classes:
    """Counts values in classes.

    :param edges: where a further class begins
    """

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = edges
        self.counts = [0] * (len(edges) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_right(self._edges, value)] += 1

    def __iter__(self) -> Iterator[int]:
        return iter(self.counts)
