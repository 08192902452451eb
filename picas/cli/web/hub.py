"""Waking the open pages: threads say that there is something new, and each page looks what is new for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class Hub:
    """The open pages. All methods but `wake` and `close` belong to the thread of the event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pages: set[asyncio.Event] = set()
        self.is_closing = False
        """Whether all pages are to be left alone, because the server ends."""

    @property
    def pages(self) -> int:
        """The number of open pages."""
        return len(self._pages)

    @contextlib.contextmanager
    def page(self) -> Iterator[asyncio.Event]:
        """Return an event for the time that a page is open: it is set whenever there may be something new."""
        self._loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        self._pages.add(woken)
        try:
            yield woken
        finally:
            self._pages.discard(woken)

    def wake(self) -> None:
        """Let all open pages look; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """Let all open pages end; from any thread."""
        self.is_closing = True
        self.wake()

    def _wake(self) -> None:
        for woken in self._pages:
            woken.set()
