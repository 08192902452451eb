"""What opens above the lists: all that a token holds, and the output of its program."""

from __future__ import annotations

import codecs
import threading
from collections.abc import Iterator
from typing import Any, Callable, ClassVar

from couchdb.http import ResourceNotFound
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from ...clients import CouchDB
from ...couch.outages import MAX_OUTAGE
from ...documents import Document
from ...pilot.orders import follow
from ...pool.facts import Facts, attachments_of, describe_token, find_token
from ...pool.program_logs import NoLog, find_log, tail_of_log
from ...tokens.states import is_in_state
from ...util import one_line
from ..showing import Line, describe
from .background import call_soon, in_thread, stream
from .steering import Proposal, cancel_token, describe_failure, retry_token
from .widgets import Notice, TextLines, TextPane

INTERVAL = 5.0
"""Seconds between two looks at the token that is shown."""
TAIL = 1 << 20
"""The most bytes of a log that are shown, from its end."""
LARGEST = 100 << 20
"""Bytes; a larger log is not fetched."""


class TokenScreen(Screen[None], inherit_bindings=False):
    """All that a token holds.

    :param client: the pool
    :param token_id: the id of the token
    :param steer: asks before a change and makes it, see `MainScreen.steer`
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "app.pop_screen"),
        Binding("ctrl+c", "app.interrupt"),
        Binding("l", "log"),
        Binding("r", "retry"),
        Binding("c", "cancel"),
        Binding("question_mark", "app.help"),
    ]

    def __init__(self, client: CouchDB, token_id: str, steer: Callable[[Callable[[], Proposal]], Any]) -> None:
        super().__init__()
        self._client = client
        self._token_id = token_id
        self._steer = steer
        self._facts: Facts | None = None
        self._is_reading = False

    def compose(self) -> ComposeResult:
        """Yield the widgets."""
        yield TextLines(id="head")
        yield TextPane(id="text")
        yield Notice(id="notice")
        yield TextLines(id="keys")

    def on_mount(self) -> None:
        """Read the token, now and again and again."""
        self.query_one("#head", TextLines).show(Text(one_line(self._token_id), "bold"))
        self.query_one("#keys", TextLines).show(Text("l log  r retry  c cancel  Esc back  ? help", "dim"))
        self.query_one(TextPane).focus()
        self.refresh_facts()
        self.set_interval(INTERVAL, self.refresh_facts)

    def on_resize(self) -> None:
        """Lay the text out anew."""
        self.call_after_refresh(self._show)

    def notify_line(self, line: Text) -> None:
        """Show a line about a change."""
        self.query_one(Notice).show_line(line)

    def refresh_facts(self) -> None:
        """Read the token."""
        if self.is_current and not self._is_reading:
            self._is_reading = True
            in_thread(
                self.app,
                lambda: describe_token(find_token(self._client, self._token_id)),
                self._keep,
                self._fail,
            )

    def _keep(self, facts: Facts) -> None:
        self._is_reading = False
        self._facts = facts
        if self.is_attached:
            self._show()

    def _fail(self, error: BaseException) -> None:
        self._is_reading = False
        if self.is_attached:
            self.notify_line(Text(describe_failure(error), "red"))

    def _show(self) -> None:
        pane = self.query_one(TextPane)
        if self._facts is not None and pane.size.width:
            lines: Iterator[Line] = describe(self._facts, pane.size.width)
            pane.show((line.text, "bold" if line.is_heading else "") for line in lines)

    def action_log(self) -> None:
        """Open the output of its program."""
        self.app.push_screen(LogScreen(self._client, self._token_id))

    def action_retry(self) -> None:
        """Put it back to todo."""
        self._steer(lambda: retry_token(self._client, self._token_id))

    def action_cancel(self) -> None:
        """Cancel it."""
        self._steer(lambda: cancel_token(self._client, self._token_id))


class LogScreen(Screen[None], inherit_bindings=False):
    """The output of a token's program: the log in the token or, while it is locked, the output as it comes.

    :param client: the pool
    :param token_id: the id of the token
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "app.pop_screen"),
        Binding("ctrl+c", "app.interrupt"),
        Binding("e", "switch"),
        Binding("question_mark", "app.help"),
    ]

    def __init__(self, client: CouchDB, token_id: str) -> None:
        super().__init__()
        self._client = client
        self._token_id = token_id
        self._is_err = False
        self._unwanted = threading.Event()  # of this reading: what an older one has found is no longer wanted

    def compose(self) -> ComposeResult:
        """Yield the widgets."""
        yield TextLines(id="head")
        yield TextPane(id="text", is_at_end=True)
        yield TextLines(id="keys")

    def on_mount(self) -> None:
        """Read the log."""
        self.query_one("#keys", TextLines).show(Text("e stdout or stderr  End newest  Esc back  ? help", "dim"))
        self.query_one(TextPane).focus()
        self._read()

    def on_unmount(self) -> None:
        """End the thread that follows the log."""
        self._unwanted.set()

    def action_switch(self) -> None:
        """Show standard error instead of standard output, or the other way round."""
        self._is_err = not self._is_err
        self._read()

    def _read(self) -> None:
        self._unwanted.set()
        unwanted = self._unwanted = threading.Event()
        self.query_one(TextPane).show(())
        self._describe("reading…")

        def if_wanted(call: Callable[..., Any]) -> Callable[..., None]:
            def wrapped(*arguments: Any) -> None:
                if not unwanted.is_set() and self.is_attached:
                    call(*arguments)

            return wrapped

        describe = if_wanted(self._describe)

        def tell(line: str) -> None:
            call_soon(self.app, lambda: describe(line))

        news = _read_log(self._client, self._token_id, self._is_err, unwanted, tell)
        stream(self.app, news, if_wanted(self._add), lambda: None, if_wanted(self._fail))

    def _add(self, news: tuple[str, str]) -> None:
        """Show what is new.

        :param news: what the log is now, '' if that is as before; and what there is of it besides
        """
        what, text = news
        if what:
            self._describe(what)
        if text:
            self.query_one(TextPane).append(text)

    def _fail(self, error: BaseException) -> None:
        self._describe("")
        self.query_one(TextPane).show([(describe_failure(error), "red")])

    def _describe(self, what: str) -> None:
        name = "standard error" if self._is_err else "standard output"
        self.query_one("#head", TextLines).show(
            Text.assemble((f"{name} of {one_line(self._token_id)}", "bold"), f"  {what}" if what else "")
        )


def _read_log(
    client: CouchDB, token_id: str, is_err: bool, unwanted: threading.Event, tell: Callable[[str], object]
) -> Iterator[tuple[str, str]]:
    """Yield what a log is, and its text, as it comes.

    :param unwanted: is set when nobody wants it any more
    :param tell: called in this thread with lines about what is waited for
    """
    token = find_token(client, token_id)
    if not is_in_state(token, "locked"):
        yield from _attached(client, token, is_err)
        return
    has_text = False
    yield "live, waiting for its pilot", ""
    own = client.copy()  # the other threads do not wait for this one
    for text in follow(own, token_id, is_err=is_err, sleep=unwanted.wait, tell=tell, max_outage=MAX_OUTAGE):
        yield "live", text
        has_text = True
    if has_text:
        yield "has ended", ""
    elif not unwanted.is_set():
        yield from _attached(client, find_token(client, token_id), is_err)


def _attached(client: CouchDB, token: Document, is_err: bool) -> Iterator[tuple[str, str]]:
    """Yield the end of the log that is attached to a token."""
    log = find_log(token, is_err=is_err)
    size = next((each.size for each in attachments_of(token) if each.name == log.name), None) or 0
    if size > LARGEST:
        err = " --err" if is_err else ""
        raise NoLog(f"this log has {size >> 20} MiB: picas logs {one_line(token.id)}{err} prints it")
    try:
        content, size = tail_of_log(client, log, TAIL)
    except ResourceNotFound:
        raise NoLog("this log was removed meanwhile") from None
    what = "" if log.attempt is None else f"attempt {log.attempt.number}"
    if not log.is_of_last:
        what += ": later ones have left none so far"
    missing = f"[... {size - len(content)} bytes ...]\n" if size > len(content) else ""
    yield what, missing + codecs.decode(content, "utf-8", "backslashreplace")
    if not content:
        yield f"{what}, empty", ""
