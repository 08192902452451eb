"""What the verbs and the scripts show on standard error while people wait: bars, and how far the server is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Callable

from .. import console
from ..clients import CouchDB
from ..pool.indexing import Indexing, wait_for_index
from .output import tell

PROGRESS_MINIMUM = 2000
"""The number of tokens from which a bar is shown."""
REMINDER = 30.0
"""Seconds between two lines about the index where there is no terminal for a bar."""


class IndexNotice:
    """Shows how far the server is with the index of each design document: a line, and then a bar at a terminal.

    Elsewhere there is another line now and then.
    """

    def __init__(self) -> None:
        self._bars: dict[str, console.ProgressBar] = {}
        self._next_line = REMINDER  # in seconds since the first look

    def __call__(self, indexing: Indexing) -> None:
        """Show it, see `pool.indexing.wait_for_index`."""
        if indexing.design_doc not in self._bars:
            tell(f"indexing the views of {indexing.design_doc}…")
            self._bars[indexing.design_doc] = console.ProgressBar(1, rate_of="changes")
            self._next_line = REMINDER
        self._bars[indexing.design_doc](indexing.total - indexing.left, indexing.total)
        if indexing.seconds >= self._next_line and not console.is_live(sys.stderr):
            self._next_line = indexing.seconds + REMINDER
            tell(str(indexing))


def wait_until_indexed(client: CouchDB, design_doc: str) -> None:
    """Wait until the server has indexed the views of a design document, and show how far it is.

    :raises couchdb.ResourceNotFound: if there is no such design document
    """
    wait_for_index(client, design_doc, IndexNotice())


@contextlib.contextmanager
def progress_of(total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar while a block handles many tokens.

    :param total: how many tokens there are; None, or few, for no bar
    :yields: a function to call with the number of tokens handled so far
    """
    size = total or 0
    bar = console.ProgressBar(PROGRESS_MINIMUM, rate_of="tokens")
    shown = -1

    def show(handled: int) -> None:
        nonlocal shown
        if size:
            shown = min(handled, size)
            bar(shown, size)

    yield show
    if 0 <= shown < size:
        show(size)  # some have changed meanwhile
