"""The lists of the live view: what is in the columns of each, and what its rows stand for."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from textual.events import Resize

from ... import console
from ...pool.failures import MAX_GROUPS
from ...pool.fields import Field
from ...pool.token_pages import TokenPage
from ...util import is_number, one_line
from .. import listing, pilots, status
from .reader import MAX_PILOTS, Snapshot
from .shelf import Shelf
from .widgets import Row, RowList

READING = "reading…"
NO_REPORT = console.no_report("this is unknown")
OUTCOME_STYLES = {"done": "", "stopped": "", None: ""}
"""The styles of outcomes; the others are failures."""
_WIDE = 100  # characters: the least width for whole dates


@dataclass(frozen=True)
class Group:
    """A group of failures, in a row."""

    group: str


@dataclass(frozen=True)
class Pilot:
    """A pilot, in a row."""

    id: str


@dataclass(frozen=True)
class Token:
    """A token, or one of its attempts, in a row."""

    id: str
    time: float | None = None
    """When the attempt has ended, in seconds since the epoch."""


class Panel(RowList):
    """A list that shows a part of what is known of the pool."""

    TITLE: ClassVar[str]
    KEYS: ClassVar[str]
    """What its keys do, besides those that work everywhere."""
    RIGHT: ClassVar[Collection[str]] = ()
    """The headings of columns that are aligned on the right."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(id=type(self).__name__.lower())
        self._snapshot = snapshot
        self._sought = ""

    @property
    def sought(self) -> str:
        """The text that rows must contain to be shown."""
        return self._sought

    def seek(self, text: str) -> None:
        """Show only rows with this text, in any column, in upper or lower case."""
        self._sought = text
        self.update(self._snapshot)

    def title(self) -> str:
        """Return what stands above the list."""
        number = self.number()
        seeks = f" /{one_line(self._sought)}" if self._sought else ""
        return f"{self.TITLE}{'' if number is None else f' {number}'}{seeks}"

    def update(self, snapshot: Snapshot) -> None:
        """Show what is known now."""
        self._snapshot = snapshot
        columns = self.columns()
        rows = [row for row in self.rows() if self._has_text(row)]
        otherwise = f"nothing with {self._sought!r}" if self._sought else self.otherwise()
        self.show(columns, rows, self.RIGHT, self.whole(), otherwise)

    def on_resize(self, event: Resize) -> None:
        """Choose the columns that there is room for."""
        self.update(self._snapshot)

    def _has_text(self, row: Row) -> bool:
        wanted = self._sought.casefold()
        return not wanted or any(wanted in one_line(cell).casefold() for cell in row.cells if cell is not None)

    def number(self) -> int | None:
        """Return how many there are, None if that is unknown or not worth a title."""
        return None

    def columns(self) -> Sequence[str]:
        """Return the headings."""
        raise NotImplementedError

    def rows(self) -> Iterator[Row]:
        """Yield all rows."""
        raise NotImplementedError

    def whole(self) -> Collection[str]:
        """Return the headings of columns that are never cut."""
        return self.RIGHT

    def otherwise(self) -> str:
        """Return what is shown if there are no rows."""
        details = self._snapshot.details
        if details is not None and details.lacks_report:
            return NO_REPORT
        return READING


class Failures(Panel):
    """The groups of failures, the largest first."""

    TITLE = "Failures"
    KEYS = "⏎ tokens  r retry"
    RIGHT = ("count",)

    def number(self) -> int | None:
        """Return how many groups there are."""
        details = self._snapshot.details
        if details is None or details.failures is None:
            return None
        return len(details.failures.groups) + details.failures.other_groups

    def columns(self) -> Sequence[str]:
        """Return the headings."""
        return ("count", "group", "reason", "token") if self.size.width >= _WIDE else ("count", "group", "reason")

    def rows(self) -> Iterator[Row]:
        """Yield a row for each group."""
        details = self._snapshot.details
        if details is None or details.failures is None:
            return
        for group in details.failures.groups:
            cells = (group.count, group.group or None, status.reason_text(group), group.example.token)
            yield Row(Group(group.group), cells[: len(self.columns())])

    def otherwise(self) -> str:
        """Return what is shown if there are no rows."""
        return super().otherwise() if self.number() is None else "no token is in error"

    def title(self) -> str:
        """Return what stands above the list."""
        return super().title() + (f", the largest {MAX_GROUPS}" if (self.number() or 0) > MAX_GROUPS else "")


class Pilots(Panel):
    """The pilots that run, silent ones first."""

    TITLE = "Pilots"
    KEYS = "⏎ tokens  d drain"
    RIGHT = pilots.NUMBERS

    def number(self) -> int | None:
        """Return how many pilots run, silent ones included."""
        details = self._snapshot.details
        return None if details is None else details.fleet.running + details.fleet.silent

    def columns(self) -> Sequence[str]:
        """Return the headings."""
        return list(self._table())

    def rows(self) -> Iterator[Row]:
        """Yield a row for each pilot, of very many for the first ones."""
        details = self._snapshot.details
        if details is None:
            return
        for pilot, *cells in zip(details.pilots, *self._table().values()):
            is_silent = pilot.silent_since(details.time) is not None
            yield Row(Pilot(pilot.id), tuple(cells), "yellow" if is_silent else "")

    def _table(self) -> dict[str, list[object]]:
        """Return the cells of each column that there is room for, by its heading."""
        details = self._snapshot.details
        if details is None:
            return {"id": []}
        return pilots.table(details.pilots, details.time, self.size.width)

    def whole(self) -> Collection[str]:
        """Return the headings of columns that are never cut."""
        return (*self.RIGHT, "silent since")

    def otherwise(self) -> str:
        """Return what is shown if there are no rows."""
        return READING if self._snapshot.details is None else "no pilot is running"

    def title(self) -> str:
        """Return what stands above the list."""
        number = self.number() or 0
        return super().title() + (f", the first {MAX_PILOTS}" if number > MAX_PILOTS else "")


class Ends(Panel):
    """The newest ends of attempts."""

    TITLE = "Ends"
    KEYS = "⏎ open  l log  r retry"

    def columns(self) -> Sequence[str]:
        """Return the headings."""
        return "time", "token", "outcome", "reason"

    def rows(self) -> Iterator[Row]:
        """Yield a row for each end."""
        details = self._snapshot.details
        for end in () if details is None or details.ends is None else details.ends:
            cells = (clock_time(end.time), end.token, end.outcome, end.reason)
            yield Row(Token(end.token, end.time), cells, OUTCOME_STYLES.get(end.outcome, "red"))

    def whole(self) -> Collection[str]:
        """Return the headings of columns that are never cut."""
        return "time", "outcome"

    def otherwise(self) -> str:
        """Return what is shown if there are no rows."""
        details = self._snapshot.details
        is_known = details is not None and details.ends is not None
        return "no attempt has ended" if is_known else super().otherwise()


class Tokens(Panel):
    """Tokens of a state, of a group of failures, or of a pilot, page by page.

    What is sought here is the beginning of an id: the server finds it in a pool of any size.
    """

    TITLE = "Tokens"
    KEYS = "⏎ open  s state  n b page  l log  r retry  c cancel"
    RIGHT = ("attempts", "seconds")

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self.shelf = Shelf()
        """Which tokens are shown."""

    @property
    def page(self) -> TokenPage | None:
        """The page that is wanted, None until it was read."""
        return self._snapshot.page if self._snapshot.shelf == self.shelf else None

    @property
    def sought(self) -> str:
        """The text with which the ids begin."""
        return self.shelf.begin

    def seek(self, text: str) -> None:
        """Show only tokens whose ids begin with this text."""
        self.open(self.shelf.beginning_with(text))

    def open(self, shelf: Shelf) -> None:
        """Show other tokens."""
        self.shelf = shelf
        self.start_over()
        self.update(self._snapshot)

    def title(self) -> str:
        """Return what stands above the list."""
        shelf = self.shelf
        what = shelf.state
        if shelf.group is not None:
            what = f"of group {shelf.group or '-'}"
        elif shelf.pilot is not None:
            what = f"of {shelf.pilot}"
        begin = f" /{shelf.begin}" if shelf.begin else ""
        is_all = not shelf.turned and self.page is not None and self.page.next is None
        return one_line(f"{self.TITLE} {what}{'' if is_all else f' p{shelf.page_number}'}{begin}")

    def columns(self) -> Sequence[str]:
        """Return the headings."""
        return [field.name for field in self._fields()]

    def rows(self) -> Iterator[Row]:
        """Yield a row for each token of the page."""
        fields = self._fields()
        for token in () if self.page is None else self.page.tokens:
            yield Row(Token(token.id), tuple(_cell(field, token) for field in fields))

    def _fields(self) -> list[Field]:
        return listing.columns_of([self.shelf.state], self.size.width)

    def _has_text(self, row: Row) -> bool:
        return True  # the server has sought

    def whole(self) -> Collection[str]:
        """Return the headings of columns that are never cut."""
        return (*self.RIGHT, "since", "group")

    def otherwise(self) -> str:
        """Return what is shown if there are no rows."""
        if self.page is None:
            return READING
        what = f" whose id begins with {self.shelf.begin!r}" if self.shelf.begin else ""
        return f"no token{what} on this page" if self.shelf.turned or self.page.next is not None else f"no token{what}"


def _cell(field: Field, token: Any) -> str | None:
    value = field.of(token)
    return clock_time(value) if field.is_time and is_number(value) else listing.table_cell(field, value)


def clock_time(seconds: float) -> str:
    """Return a time for people, as short as it can be: "16:04:05", and "11-28 16:04" if it was not within a day.

    :param seconds: seconds since the epoch
    """
    is_today = abs(time.time() - seconds) < 86_400
    return time.strftime("%H:%M:%S" if is_today else "%m-%d %H:%M", time.localtime(seconds))
