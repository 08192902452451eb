"""The screen with the counts, the charts and the lists."""

from __future__ import annotations

import time
from typing import Any, Callable, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.events import Resize
from textual.geometry import Size
from textual.screen import Screen
from textual.widgets import Input

from ...pool.history import MINUTE
from ...pool.indexing import Indexing
from ...pool.progress import WINDOW
from ...tokens.states import STATES
from ...util import duration_text, one_line, visible
from .. import output, status
from . import charts, steering
from .background import call_soon, in_thread
from .dialogs import Ask
from .panels import Ends, Failures, Group, Panel, Pilot, Pilots, Token, Tokens, clock_time
from .reader import Event, Poller, PoolReader, Problem
from .shelf import Shelf
from .steering import Proposal
from .token_screens import LogScreen, TokenScreen
from .widgets import Notice, TextLines

WIDE = (120, 30)
"""The columns and lines from which all lists are shown at once."""
SILENCE = 10.0
"""Seconds without an answer of the server after which that is shown."""
TICK = 1.0
"""Seconds between two looks at the time."""
NOTICE_TIME = 20.0
"""Seconds for which a line about a change is shown."""
MOST_MINUTES = 240
"""For how many minutes back the history is shown at most."""
MORE_KEYS = "/ filter  p pause  ? help  q quit"
LEAST_KEYS = "? help"
_ABOVE = ("head", "counts", "bar", "rate", "history", "fleet", "tabs")


class MainScreen(Screen[None], inherit_bindings=False):
    """The counts, the charts and the lists of a pool.

    :param reader: reads the pool
    :param poller: does so again and again
    :param name: what the pool is called
    """

    AUTO_FOCUS: ClassVar[str] = ""  # the keys belong to the screen
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)"),
        Binding("down,j", "move(1)"),
        Binding("pageup", "page(-1)"),
        Binding("pagedown,space", "page(1)"),
        Binding("home,g", "move(-1000000)"),
        Binding("end,G", "move(1000000)"),
        Binding("enter", "open"),
        Binding("tab", "next_panel(1)"),
        Binding("shift+tab", "next_panel(-1)"),
        Binding("slash", "filter"),
        Binding("escape", "all"),
        Binding("s", "next_state"),
        Binding("n", "turn(1)"),
        Binding("b", "turn(-1)"),
        Binding("l", "log"),
        Binding("r", "retry"),
        Binding("c", "cancel"),
        Binding("d", "drain"),
        Binding("p", "pause"),
        Binding("q", "quit_or_warn"),
        Binding("question_mark", "app.help"),
    ]

    def __init__(self, reader: PoolReader, poller: Poller, name: str) -> None:
        super().__init__()
        self._reader = reader
        self._client = reader.client
        self._poller = poller
        self._pool = one_line(name)
        self._answered = time.time()  # when the server has answered last
        self._problem: str | None = None  # since then
        self._is_refused = False  # not the server is away: the pool is gone, or the password was changed
        self._notice, self._notice_ends = Text(), 0.0
        self._is_asking = False
        self._changing = ""  # what is being changed
        self._is_warned = False  # that it would be left in the middle
        self._panels: list[Panel] = [kind(poller.snapshot) for kind in (Failures, Pilots, Ends, Tokens)]
        self._active: Panel = self._panels[0]
        self._titles = {panel: TextLines(classes="title") for panel in self._panels}
        # What the poller finds may come before these are on the screen.
        self._lines = {name: TextLines(id=name) for name in (*_ABOVE, "keys")}
        self._notice_line = Notice()

    def compose(self) -> ComposeResult:
        """Yield the widgets."""
        self._adapt(self.app.size)
        for name in _ABOVE:
            yield self._lines[name]
        with Container(id="panels"):
            for panel in self._panels:
                with Vertical(classes="place"):
                    yield self._titles[panel]
                    yield panel
        yield self._notice_line
        entry = Input(id="filter")
        entry.cursor_blink = False
        yield entry
        yield self._lines["keys"]

    # --- what is shown

    def on_mount(self) -> None:
        """Show what is known."""
        self._activate(self._active)
        self.set_interval(TICK, self._tick)

    def on_resize(self, event: Resize) -> None:
        """Choose what there is room for."""
        self._adapt(event.size)
        minutes = min(MOST_MINUTES, event.size.width)
        if minutes > self._reader.minutes:
            self._reader.minutes = minutes
            self._poller.wake()
        self._reveal()
        self._want_page()
        self.call_after_refresh(self.update)

    def _adapt(self, size: Size) -> None:
        """Show all lists at once if there is room."""
        self.set_class(size.width >= WIDE[0] and size.height >= WIDE[1], "wide")

    def take(self, event: Event) -> None:
        """Take what the poller has found."""
        if isinstance(event, Indexing):
            self._answered = time.time()
            self.tell(f"{event}; failures, rate and ends follow" if event.left else "")
        elif isinstance(event, Problem):
            if event.is_away:
                self._problem, self._is_refused = event.text, event.is_refused
            elif self._problem is None:
                self.tell(event.text, "red")
        else:
            self._answered, self._problem = time.time(), None
            for panel in self._panels:
                panel.update(event)
        if self.is_attached:
            self.update()

    def tell(self, line: str, style: str = "bold") -> None:
        """Show a line about a change for a while."""
        self._notice, self._notice_ends = Text(one_line(line), style), time.monotonic() + NOTICE_TIME
        self._show_notice()

    def _show_notice(self) -> None:
        screen = self.app.screen
        if isinstance(screen, TokenScreen):
            screen.notify_line(self._notice)
        if self.is_attached:
            self._notice_line.show_line(self._notice)

    def _tick(self) -> None:
        if self._notice and not self._changing and time.monotonic() > self._notice_ends:
            self._notice = Text()
            self._show_notice()
        self._show_head()

    def update(self) -> None:
        """Show what is known now, and send to the terminal what has changed."""
        overview = self._poller.snapshot.overview
        self._show_head()
        counts = Text("  ").join(
            Text.assemble((charts.MARKS[state][0], charts.MARKS[state][1]), f" {state} {overview.counts[state]}")
            for state in STATES
        )
        self._lines["counts"].show(counts)
        self._lines["bar"].show(charts.bar(overview.counts, self.size.width))
        rate = next(status.describe_rate(overview), None)
        self._lines["rate"].show(Text(self._why_no_rate(), "dim") if rate is None else Text(rate))
        self._lines["fleet"].show(Text(next(status.describe_fleet(overview), "")))
        self._show_history()
        self._show_titles()

    def _why_no_rate(self) -> str:
        """Return why the rate is not known."""
        details = self._poller.snapshot.details
        if details is None or details.history is None:
            return ""
        if not details.fleet.running:
            return "no rate: no pilot is running"
        if any(bin.total.tokens for bin in details.history if bin.start > details.time - MINUTE * WINDOW):
            return "no rate yet: pilots have worked for less than a minute"
        return "no rate: no token has ended lately"

    def _show_head(self) -> None:
        since = time.time() - self._answered
        if self._problem is not None or since > SILENCE:
            what = "can't be read since" if self._is_refused else "server away since"
            why = f"({duration_text(since)}): {self._problem or 'no answer'}"
            line = f"{what} {output.local_time(self._answered)} {why}"
            if cell_len(line) > self.size.width:  # the reason matters more than the date
                line = f"{what} {clock_time(self._answered)} {why}"
            self._lines["head"].show(Text(visible(line), "bold red"))
            return
        pause = next(status.describe_pause(self._poller.snapshot.overview), None)
        if pause is None:
            self._lines["head"].show(Text(self._pool, "bold"))
            return
        state = Text(visible(pause), "bold yellow")
        has_room = cell_len(self._pool) + 2 + cell_len(state.plain) <= self.size.width
        self._lines["head"].show(Text.assemble((self._pool, "bold"), "  ", state) if has_room else state)

    def _show_history(self) -> None:
        details = self._poller.snapshot.details
        if details is None or not details.history:
            self._lines["history"].show()
            return
        values = [bin.total.tokens for bin in details.history[:-1]]  # the minute that is going on would mislead
        most = max(values, default=0)
        if not most:
            self._lines["history"].show()
            return
        height = max(1, self._lines["history"].size.height)
        label = f" max {most}/min"
        width = max(1, self.size.width - cell_len(label))
        values = values[-width:]
        *above, lowest = charts.columns(values, height)
        lines = [Text(line, "green") for line in [*above, lowest]]
        lines[0].append(label, "dim")
        if height > 1:
            lines[-1].append(f" {len(values)} min", "dim")
        self._lines["history"].show(*lines)

    def _show_titles(self) -> None:
        tabs = Text()
        for panel in self._panels:
            style = "bold reverse" if panel is self._active else ""
            title = Text(f" {panel.title()} ", style)
            self._titles[panel].show(title)
            tabs.append_text(title)
            tabs.append(" ")
        self._lines["tabs"].show(tabs)
        keys = f"{self._active.KEYS}  {MORE_KEYS}"
        if cell_len(keys) > self.size.width:
            keys = f"{self._active.KEYS}  {LEAST_KEYS}"
        self._lines["keys"].show(Text(keys, "dim"))

    # --- the lists

    def _activate(self, panel: Panel) -> None:
        self._active.activate(False)
        self._active = panel
        panel.activate(True)
        self._reveal()
        self._want_page()
        self.call_after_refresh(self.update)

    def _reveal(self) -> None:
        """Make sure that the active list can be seen."""
        if self.has_class("wide"):
            return  # all can, and each change of classes lets the whole screen be drawn again
        for panel in self._panels:
            if panel.parent is not None:
                panel.parent.set_class(panel is self._active, "active")

    def _want_page(self) -> None:
        """Let the poller read tokens while they are shown."""
        tokens = self._tokens
        is_shown = self._active is tokens or self.has_class("wide")
        self._poller.show(tokens.shelf if is_shown else None)

    @property
    def _tokens(self) -> Tokens:
        return next(panel for panel in self._panels if isinstance(panel, Tokens))

    def action_next_panel(self, step: int) -> None:
        """Go to another list."""
        place = (self._panels.index(self._active) + step) % len(self._panels)
        self._activate(self._panels[place])

    def action_move(self, steps: int) -> None:
        """Move the cursor."""
        self._active.move(steps)

    def action_page(self, steps: int) -> None:
        """Move the cursor by what fits on the screen."""
        self._active.page_move(steps)

    def action_open(self) -> None:
        """Open what the cursor is at."""
        current = self._active.current
        if isinstance(current, Group):
            self._open(Shelf.of_group(current.group))
        elif isinstance(current, Pilot):
            self._open(Shelf.of_pilot(current.id))
        elif isinstance(current, Token):
            self.app.push_screen(TokenScreen(self._client, current.id, self.steer))

    def _open(self, shelf: Shelf) -> None:
        self._tokens.open(shelf)
        self._activate(self._tokens)

    def action_next_state(self) -> None:
        """Show the tokens of another state."""
        states = list(STATES)
        place = states.index(self._tokens.shelf.state) if self._active is self._tokens else -1
        self._open(Shelf(states[(place + 1) % len(states)]))

    def action_turn(self, step: int) -> None:
        """Turn the pages of the tokens."""
        tokens, page = self._tokens, self._tokens.page
        if self._active is not tokens:
            return
        if step < 0 and tokens.shelf.turned:
            self._open(tokens.shelf.previous_page())
        elif step > 0 and page is not None and page.next is not None:
            self._open(tokens.shelf.next_page(page.next))

    def action_filter(self) -> None:
        """Let the person write what to seek."""
        entry = self.query_one(Input)
        entry.placeholder = "ids that begin with" if self._active is self._tokens else "rows with"
        entry.value = self._active.sought
        self._notice_line.display = False
        entry.display = True
        entry.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Seek while the person writes, but in the pool only at the end."""
        if event.input.display and self._active is not self._tokens:
            self._active.seek(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Seek."""
        self._active.seek(event.value)
        self._leave_filter()

    def action_all(self) -> None:
        """Show all rows again."""
        if self._active.sought:
            self._active.seek("")
        self._leave_filter()

    def _leave_filter(self) -> None:
        self.query_one(Input).display = False
        self.set_focus(None)
        self._notice_line.display = True
        self._activate(self._active)

    # --- changes

    def steer(self, propose: Callable[[], Proposal]) -> None:
        """Ask before a change, make it, and show what came of it.

        :param propose: returns what to ask; is called in a thread
        """
        if self._changing:
            self.tell(f"one change at a time: {self._changing}")
            return
        if self._is_asking:
            return
        self._is_asking = True
        self.tell("one moment…", "dim")
        in_thread(self.app, propose, self._ask, self._fail)

    def _ask(self, proposal: Proposal) -> None:
        self.tell("")

        def answered(message: str | None) -> None:
            self._is_asking = False
            if message is None:
                self.tell("nothing was changed")
                return
            self._changing = "changing…"
            self.tell(self._changing)
            in_thread(self.app, lambda: proposal.carry_out(message, self._tell_later), self._end, self._fail)

        self.app.push_screen(Ask(proposal.question, proposal.has_message), answered)

    def _tell_later(self, line: str) -> None:
        """Show how far a change is; this is called in its thread."""

        def show() -> None:
            if self._changing:
                self._changing = line
                self.tell(line)

        call_soon(self.app, show)

    def _end(self, line: str) -> None:
        self._changing, self._is_warned = "", False
        self.tell(line)
        self._poller.wake()
        if isinstance(self.app.screen, TokenScreen):
            self.app.screen.refresh_facts()

    def _fail(self, error: BaseException) -> None:
        self._is_asking, self._changing, self._is_warned = False, "", False
        self.tell(steering.describe_failure(error), "red")

    def _current(self, *kinds: type, otherwise: str) -> Any:
        """Return what the cursor is at, None if it is something else."""
        current = self._active.current
        if isinstance(current, kinds):
            return current
        self.tell(otherwise)
        return None

    def action_retry(self) -> None:
        """Put a token, or a group of failures, back to todo."""
        current = self._current(Group, Token, otherwise="r retries a group of failures, or a token")
        if isinstance(current, Group):
            group = current.group
            self.steer(lambda: steering.retry_group(self._client, group))
        elif isinstance(current, Token):
            id = current.id
            self.steer(lambda: steering.retry_token(self._client, id))

    def action_cancel(self) -> None:
        """Cancel a token."""
        current = self._current(Token, otherwise="c cancels a token: choose one in the list of tokens")
        if current is not None:
            self.steer(lambda: steering.cancel_token(self._client, current.id))

    def action_drain(self) -> None:
        """Drain a pilot."""
        current = self._current(Pilot, otherwise="d drains a pilot: choose one in the list of pilots")
        if current is not None:
            self.steer(lambda: steering.drain_pilot(self._client, current.id))

    def action_pause(self) -> None:
        """Pause or resume the pool."""
        self.steer(lambda: steering.pause_or_resume(self._client))

    def action_log(self) -> None:
        """Open the output of a token's program."""
        current = self._current(Token, otherwise="l shows the log of a token: choose one in the list of tokens")
        if current is not None:
            self.app.push_screen(LogScreen(self._client, current.id))

    def action_quit_or_warn(self) -> None:
        """Quit; while something is being changed, only if the key is pressed twice."""
        if self._changing and not self._is_warned:
            self._is_warned = True
            self.tell(f"{self._changing}: press q again to stop here; the rest stays as it is")
        else:
            self.app.exit(0)
