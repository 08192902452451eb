"""What a chart is, as data. The report draws it with matplotlib, the page of `picas web` with uPlot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MOST_POINTS = 2_000
"""The most points of a chart."""
LINES, STACKED, BARS, LANES, HEAT = "lines", "stacked", "bars", "lanes", "heat"
"""The kinds of charts: lines over time; areas over time that are stacked; bars for labels, stacked or side by side; a
lane for each pilot; a map of shares."""


@dataclass(frozen=True)
class Series:
    """Values of a chart, one for each x."""

    name: str
    values: tuple[float | None, ...]
    """None where the value is unknown."""
    role: str = ""
    """What it stands for, which chooses its colour: "done", "failed", "stopped", "lost", "todo", "locked", "slots"…"""


@dataclass(frozen=True)
class Span:
    """A bar on a lane."""

    row: int
    start: float
    """Seconds since the epoch."""
    end: float
    role: str
    """"ended", "running" or "dead"."""
    share: float | None
    """The share of its slots' time that was spent at work."""


@dataclass(frozen=True)
class Mark:
    """Something that has happened in a row at about a time."""

    row: int
    """-1 for all rows together."""
    x: float
    """Seconds since the epoch; of retries, the start of the bin."""
    role: str
    """"death" or "retry"."""
    count: int


@dataclass(frozen=True)
class Chart:
    """A chart as data."""

    name: str
    """For ids and the names of files."""
    title: str
    kind: str
    """One of LINES, STACKED, BARS, LANES and HEAT."""
    x_title: str
    y_title: str
    """With the unit."""
    x: tuple[Any, ...]
    """Seconds since the epoch (the starts of the bins), or labels."""
    text: str
    """What it shows, in words and true numbers."""
    note: str = ""
    """What is not in it, and how it was counted."""
    series: tuple[Series, ...] = ()
    is_time: bool = True
    """Whether x is a time."""
    width: float = 0.0
    """The width of a bin in seconds, 0 if x has labels."""
    is_stacked: bool = False
    """Whether the series are to be added up."""
    rows: tuple[str, ...] = ()
    """The labels of the rows of lanes and of a map of shares, whose series are its rows; of bars, what their labels
    mean, if they do not say it themselves."""
    spans: tuple[Span, ...] = ()
    marks: tuple[Mark, ...] = ()

    @property
    def points(self) -> int:
        """How many points it has."""
        return sum(len(series.values) for series in self.series) + 2 * len(self.spans) + len(self.marks)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.spans and not any(value for series in self.series for value in series.values)


def as_json(chart: Chart) -> dict[str, Any]:
    """Return a chart as values that JSON can hold."""
    return asdict(chart)
