"""The live view of a pool: a full-screen application in the terminal, made with the package textual."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import traceback
from collections.abc import Mapping
from typing import ClassVar

from rich.text import Text
from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from ...clients import CouchDB
from ...util import visible
from .background import Done, call_soon
from .dialogs import Help
from .main_screen import MainScreen
from .reader import Event, Poller, PoolReader

STYLES = """
Screen { background: ansi_default; color: ansi_default; overflow: hidden; scrollbar-size: 0 0; }
TextLines { height: 1; }
TextPane, Panel { height: 1fr; }
Input, Input:focus {
    height: 1; border: none; padding: 0; background: ansi_default; color: ansi_default;
}
#panels { height: 1fr; layout: vertical; }
#panels .place { display: none; height: 1fr; }
#panels .place.active { display: block; }
#panels .title { display: none; }
#panels .lists { height: 1fr; layout: vertical; }
.wide #panels { layout: grid; grid-size: 2 2; grid-gutter: 1 3; }
.wide #panels .place { display: block; }
.wide #panels .title { display: block; }
.wide #tabs { display: none; }
.wide #history { height: 4; }
#filter { display: none; }
Ask, Help { align: center middle; background: transparent; }
.box { width: 90%; max-width: 80; height: 9; border: round ansi_default; padding: 0 1; background: ansi_default; }
.box.tall { width: 100%; height: 100%; max-height: 17; max-width: 58; }
"""


class TopApp(App[int]):
    """The live view of a pool.

    Only the sixteen colours of the terminal are used, and its own for text and background. The mouse is left to the
    terminal, which can select text then.

    :param client: the pool
    :param counts: the number of tokens in each state
    :param name: what the pool is called
    """

    CSS = STYLES
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", priority=True),
        Binding("ctrl+z", "suspend_process", priority=True),
        Binding("ctrl+l", "redraw", priority=True),
    ]

    def __init__(self, client: CouchDB, counts: Mapping[str, int], name: str) -> None:
        super().__init__(ansi_color=True)
        self._reader = PoolReader(client)
        self.poller = Poller(self._reader, counts, self._pass_on)
        self.main = MainScreen(self._reader, self.poller, name)

    def on_mount(self) -> None:
        """Show the pool, and begin to read it."""
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # in a thread, as in some tests
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self.exit, 128 + number)
        self.app_resume_signal.subscribe(self, lambda _: self.action_redraw())
        self.poller.start()

    def get_default_screen(self) -> Screen[None]:
        """Return the screen that stays below all others."""
        return self.main

    def on_unmount(self) -> None:
        """Read nothing more."""
        self.poller.stop()

    def _fatal_error(self) -> None:
        """Show a fault of the program as Python does: textual would show the values of variables with it."""
        self.panic(Text(visible(traceback.format_exc())))

    def _pass_on(self, event: Event) -> None:
        call_soon(self, lambda: self.main.take(event))

    def on_done(self, message: Done) -> None:
        """Call what a thread has left."""
        message.call()

    def action_interrupt(self) -> None:
        """End on Ctrl-C."""
        self.exit(128 + signal.SIGINT)

    def action_redraw(self) -> None:
        """Draw the whole screen, after Ctrl-Z, or if something else has written to the terminal."""
        self.refresh(layout=True)

    def action_help(self) -> None:
        """List the keys."""
        if not isinstance(self.screen, Help):
            self.push_screen(Help())


def run(client: CouchDB, counts: Mapping[str, int], name: str) -> int:
    """Show a pool until the person quits, and return the exit code.

    :param client: the pool
    :param counts: the number of tokens in each state
    :param name: what the pool is called
    """
    app = TopApp(client, counts, name)
    code = app.run(mouse=False)
    return code or app.return_code or 0
