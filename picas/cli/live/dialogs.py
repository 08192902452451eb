"""What comes in front of the screen: a question before a change, and the list of the keys."""

from __future__ import annotations

from typing import ClassVar, Optional

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from .widgets import TextLines, TextPane

HELP = """\
Tab          the next list; Shift+Tab: back
↑ ↓          move; PgUp, PgDn, Home and End too
/            only rows with a text; of tokens, only
             ids that begin with it. Esc: all again
Enter        open a token, or the tokens of a group
             of failures or of a pilot
s  n  b      tokens: next state, next page, page back
l            the log of a token; of one at work, live
r            retry a token or a group of failures
c            cancel a token
d            drain a pilot: no further tokens for it
p            pause the pool, or resume it
q  Ctrl-C    quit. Esc leaves what was opened

r c d p ask first.  █ done  ▒ locked  ▚ error  ░ todo"""


class Ask(ModalScreen[Optional[str]]):
    """Asks a question. The result is the person's message if the answer is yes, and None if it is no.

    :param question: the question
    :param has_message: whether a message can be given
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "yes"),
        Binding("n,escape,q,ctrl+c", "no"),
        Binding("m", "message"),
    ]

    def __init__(self, question: str, has_message: bool) -> None:
        super().__init__()
        self._question = question
        self._has_message = has_message

    def compose(self) -> ComposeResult:
        """Yield the widgets."""
        with Vertical(classes="box"):
            yield TextPane(id="question")
            yield TextLines(id="answers")
            entry = Input(placeholder="why, for the others", id="message")
            entry.cursor_blink = False
            entry.display = False
            yield entry

    def on_mount(self) -> None:
        """Show the question."""
        self._show()

    def _show(self, message: str = "") -> None:
        keys = "y yes   n no" + ("   m add a message" if self._has_message else "")
        self.query_one("#answers", TextLines).show(Text(keys, "bold"))
        pane = self.query_one(TextPane)
        pane.show([(self._question, ""), *([("", ""), (f"message: {message}", "")] if message else [])])
        pane.focus()

    def action_yes(self) -> None:
        """Answer yes."""
        self.dismiss(self.query_one(Input).value)

    def action_no(self) -> None:
        """Answer no, or leave the message."""
        entry = self.query_one(Input)
        if entry.display:
            entry.value = ""
            self._leave_message()
        else:
            self.dismiss(None)

    def action_message(self) -> None:
        """Let the person write a message."""
        if self._has_message:
            entry = self.query_one(Input)
            entry.display = True
            entry.focus()

    def on_input_submitted(self) -> None:
        """Go back to the question."""
        self._leave_message()

    def _leave_message(self) -> None:
        entry = self.query_one(Input)
        entry.display = False
        self._show(entry.value)


class Help(ModalScreen[None]):
    """Lists the keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter,ctrl+c", "close")]

    def compose(self) -> ComposeResult:
        """Yield the widgets."""
        with Vertical(classes="box tall"):
            yield TextPane(id="help")

    def on_mount(self) -> None:
        """Show the keys."""
        pane = self.query_one(TextPane)
        pane.show((line, "") for line in HELP.splitlines())
        pane.focus()

    def action_close(self) -> None:
        """Go back."""
        self.dismiss(None)
