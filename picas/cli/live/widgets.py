"""Widgets that draw plain lines, and send only those to the terminal that have changed.

The texts may come from tokens. None of them is read as markup, and none has a control character when it is drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from ...util import visible
from .. import output

MAX_CELL = 500
"""The most characters of a cell that are looked at."""
MAX_LINES = 5_000
"""The most lines that a text pane keeps."""
MAX_LINE = 10_000
"""The most characters of a line in a text pane."""


class Lines(Widget):
    """A widget that draws lines of its own."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._drawn: list[Text] = []

    def render_line(self, y: int) -> Strip:
        """Return a line as it is drawn."""
        text = self._drawn[y] if y < len(self._drawn) else Text()
        console = self.app.console
        style = console.get_style(text.style)  # which a text without spans leaves out
        segments = [segment for segment in Segment.apply_style(text.render(console), style) if segment.text]
        return Strip(segments).adjust_cell_length(self.size.width, Style.null())

    def draw(self, lines: Sequence[Text]) -> None:
        """Draw lines, of which those that are as before are not sent to the terminal."""
        before, self._drawn = self._drawn, list(lines)
        changed = [
            Region(0, y, self.size.width, 1)
            for y in range(max(len(before), len(lines)))
            if y >= len(before) or y >= len(lines) or not _is_same(before[y], lines[y])
        ]
        if changed and self.is_attached:
            self.refresh(*changed)


def _is_same(one: Text, other: Text) -> bool:
    return one.plain == other.plain and one.style == other.style and one.spans == other.spans


class TextLines(Lines):
    """Lines of text with styles; the height comes from the style sheet."""

    def show(self, *lines: Text) -> None:
        """Show these lines; what is too long is cut."""
        self.draw(lines)


class Notice(TextLines):
    """A text of one line, or of two if there is no room for it on one."""

    def show_line(self, text: Text) -> None:
        """Show a text."""
        width = max(1, self.size.width)
        lines = text.wrap(self.app.console, width)[:2] if cell_len(text.plain) > width else [text]
        self.styles.height = len(lines)
        self.show(*lines)


@dataclass(frozen=True)
class Row:
    """A row of a list."""

    key: Any
    """What it stands for; the cursor stays at it."""
    cells: tuple[object, ...]
    """A value for each column, None if it is unknown."""
    style: str = ""
    """A style of the package rich, for all of it."""


class RowList(Lines):
    """A table with a cursor, which is shown while the list is the active one.

    It never has the focus: textual draws much of the screen again when that moves.
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._columns: Sequence[str] = ()
        self._rows: list[Row] = []
        self._right: Collection[str] = ()
        self._whole: Collection[str] = ()
        self._otherwise = ""
        self._is_active = False
        self._at, self._first = 0, 0  # the rows with the cursor, and at the top
        self._laid_out: tuple[Any, list[str]] = (None, [])

    @property
    def current(self) -> Any:
        """The key of the row with the cursor, None if there is no row."""
        return self._rows[self._at].key if self._rows else None

    def show(
        self,
        columns: Sequence[str],
        rows: Iterable[Row],
        right: Collection[str] = (),
        whole: Collection[str] = (),
        otherwise: str = "",
    ) -> None:
        """Show a table.

        :param columns: the headings
        :param rows: the rows. If one has the key of the row at the cursor, the cursor moves there.
        :param right: see `output.table_lines`
        :param whole: see `output.table_lines`
        :param otherwise: what is shown if there are no rows
        """
        key = self.current
        self._columns, self._rows, self._right, self._whole = columns, list(rows), right, whole
        self._otherwise = otherwise
        place = next((place for place, row in enumerate(self._rows) if row.key == key), self._at)
        self._at = max(0, min(place, len(self._rows) - 1))
        self._redraw()

    def start_over(self) -> None:
        """Move the cursor to the first row."""
        self._at = self._first = 0

    def activate(self, is_active: bool) -> None:
        """Show or hide the cursor."""
        self._is_active = is_active
        self._redraw()

    def move(self, steps: int) -> None:
        """Move the cursor."""
        self._at = max(0, min(self._at + steps, len(self._rows) - 1))
        self._redraw()

    def page_move(self, steps: int) -> None:
        """Move the cursor by what fits on the screen."""
        self.move(steps * max(1, self.size.height - 2))

    def on_resize(self, event: Resize) -> None:
        """Lay the table out anew."""
        self._redraw()

    def _redraw(self) -> None:
        room = max(0, self.size.height - 1)
        if not self._rows:
            self.draw([Text(visible(self._otherwise), "dim")])
            return
        self._first = max(0, min(self._first, self._at, len(self._rows) - room))
        self._first = max(self._first, self._at - room + 1)
        headings, *lines = self._lines()
        shown = list(zip(self._rows, lines))[self._first : self._first + room]
        drawn = [Text(headings, "bold")]
        if len(self._rows) > len(shown):
            place = f"{self._first + 1}-{self._first + len(shown)} of {len(self._rows)}"
            drawn[0].append(place.rjust(self.size.width - cell_len(headings)), "not bold dim")
        for number, (row, line) in enumerate(shown, self._first):
            is_at_cursor = number == self._at and self._is_active
            text = f"{line}{' ' * (self.size.width - cell_len(line))}" if is_at_cursor else line
            drawn.append(Text(text, f"{row.style} {'reverse' if is_at_cursor else ''}".strip()))
        self.draw(drawn)

    def _lines(self) -> list[str]:
        """Return the lines of the whole table, as wide as the widget."""
        cells = [tuple(None if cell is None else str(cell)[:MAX_CELL] for cell in row.cells) for row in self._rows]
        wanted = (list(self._columns), cells, self._right, self._whole, self.size.width)
        if self._laid_out[0] != wanted:
            width = max(1, self.size.width)
            lines = output.table_lines(self._columns, cells, self._right, self._whole, width)
            self._laid_out = wanted, [output.cut(line, width) for line in lines]
        return self._laid_out[1]


class TextPane(Lines, can_focus=True):
    """A text to scroll in, whose long lines are wrapped."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll(-1)"),
        Binding("down,j", "scroll(1)"),
        Binding("pageup,b", "page(-1)"),
        Binding("pagedown,space", "page(1)"),
        Binding("home,g", "scroll(-100000000)"),
        Binding("end,G", "scroll(100000000)"),
    ]

    def __init__(self, *, is_at_end: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self._is_at_end = is_at_end
        self._lines: list[tuple[str, str]] = []  # the text and the style of each, not wrapped
        self._by_words = True
        self._rest = ""  # the last line, which may go on
        self._wrapped: list[Text] = []
        self._first = 0

    def show(self, lines: Iterable[tuple[str, str]]) -> None:
        """Show lines, each a text and a style of the package rich. Long ones are wrapped between words."""
        self._lines, self._rest, self._by_words = list(lines)[:MAX_LINES], "", True
        self._wrap()

    def append(self, text: str) -> None:
        """Add a text at the end, which may begin in the middle of a line. Of very many lines, the last are kept.

        Long lines are wrapped anywhere then.
        """
        self._by_words = False
        *lines, self._rest = (self._rest + text.replace("\r\n", "\n")).split("\n")
        self._rest = self._rest[-MAX_LINE:]
        self._lines = [*self._lines, *((line, "") for line in lines)][-MAX_LINES:]
        self._wrap()

    def action_scroll(self, steps: int) -> None:
        """Scroll by some lines."""
        last = max(0, len(self._wrapped) - self.size.height)
        self._first = max(0, min(self._first + steps, last))
        self._is_at_end = self._first == last and steps > 0
        self._redraw()

    def action_page(self, steps: int) -> None:
        """Scroll by what fits on the screen."""
        self.action_scroll(steps * max(1, self.size.height - 1))

    def on_resize(self, event: Resize) -> None:
        """Wrap the lines anew."""
        self._wrap()

    def _all(self) -> Iterable[tuple[str, str]]:
        return [*self._lines, *([(self._rest, "")] if self._rest else [])]

    def _wrap(self) -> None:
        width = max(1, self.size.width)
        self._wrapped = [part for text, style in self._all() for part in self._parts(_shown(text), style, width)]
        last = max(0, len(self._wrapped) - self.size.height)
        self._first = last if self._is_at_end else min(self._first, last)
        self._redraw()

    def _parts(self, line: str, style: str, width: int) -> Iterable[Text]:
        if cell_len(line) <= width:
            return [Text(line, style)]
        if self._by_words:
            return Text(line, style).wrap(self.app.console, width)
        return [Text(part, style) for part in chop_cells(line, width)]

    def _redraw(self) -> None:
        self.draw(self._wrapped[self._first : self._first + self.size.height])


def _shown(line: str) -> str:
    return visible(line[:MAX_LINE]).expandtabs()
