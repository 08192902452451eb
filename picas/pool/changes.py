"""Waiting until tokens become free, at little cost: with CouchDB's feed of changes, or by looking now and then.

The feed is a long poll: the server answers a request when a document that `FREE` describes has changed. Each answer
wakes all pilots that wait. So no pilot tries to lock the token at once: each waits for a random time, and reads the
feed again from the same place. If another pilot has locked the token meanwhile, the feed no longer has it, and the
pilot goes on waiting.

A token can come into a view without a change: somebody creates the views again, or repairs them. So a pilot looks at
the pool every few minutes, whatever the feed says.
"""

from __future__ import annotations

import math
import random
import threading
import time
from typing import Any, Callable

from couchdb.http import HTTPError

from ..clients import CouchDB
from ..exceptions import PicasError
from ..picaslogger import get_logger
from ..processes import start_thread
from ..util import After, always

log = get_logger(__name__)

_ZERO = {"$in": [0, False, "", "0"]}  # what scripts write that equals 0 in the JavaScript of a view
FREE = {"lock": _ZERO, "done": _ZERO}
"""The documents that the feed reports: those that can be locked, whatever view they are in."""
NEWS = 1000
"""The most changes that the feed reports at once."""
SPREAD = 0.7
"""Seconds within which pilots that were woken together look again."""
FIRST_PAUSE = 0.5
"""Seconds until a pilot looks at the pool again if the feed does not work. The pauses double."""
LOOK = 300.0
"""The longest time, in seconds, that a pilot relies on the feed before it looks at the pool."""
FEED_RETRY = 300.0
"""Seconds after which a feed that did not work is tried again."""

_NO_FEED = (PicasError, HTTPError, LookupError, TypeError, ValueError)
"""The errors of a feed that does not work. Some of them come up if something other than the database answers."""


class Feed:
    """Listens, in a thread of its own, for tokens that become free.

    :param client: the pool
    """

    def __init__(self, client: CouchDB) -> None:
        self.has_news = False
        """Whether a token has become free, and was still free a moment later."""
        self.bell = threading.Event()
        """Set when there is news, or will never be any. No signal handler uses it, since it has a lock."""
        self.is_broken = False
        """Whether the feed has failed."""
        self._changes = client.changes_feed()
        self._since: Any = None
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def arm(self) -> None:
        """Begin now: tokens that become free from now on are news.

        :raises PicasError, couchdb.http.HTTPError: if the feed does not work
        """
        self._since = self._changes.last_seq()

    def listen(self) -> None:
        """Listen until there is news.

        :raises NodeFault: if there can be no further thread
        """
        if self._thread is not None and self.has_news:
            self._thread.join()  # it has reported its news and is about to end
        self.has_news = False
        self.bell.clear()
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._run, name="picas-feed", daemon=True)
            start_thread(thread)
            self._thread = thread

    def calls(self) -> bool:
        """Return whether it is time to look at the pool: there is news, or there will never be any."""
        return self.has_news or self.is_broken or self._is_closed

    def close(self) -> None:
        """Stop listening."""
        self._is_closed = True
        self._changes.break_off()

    def _run(self) -> None:
        try:
            self._listen()
        except _NO_FEED as error:
            if not self._is_closed:
                log.info("The feed of changes does not work: %s", error)
                self.is_broken = True
        finally:
            self._changes.close()
            self.bell.set()

    def _listen(self) -> None:
        freed: set[Any] = set()  # tokens that have become free, and may have been locked since
        while not self._is_closed:
            is_free, last_seq = self._changes.poll(self._since, FREE, NEWS)
            if freed & is_free:
                self._since = last_seq
                self.has_news = True
                return
            freed = is_free
            if freed:
                # Late rather than early: of many pilots one comes early enough, and the others find the token locked.
                time.sleep(SPREAD * math.sqrt(random.random()))
            else:
                self._since = last_seq


class Waiter:
    """Decides when a pilot that has found no token asks again.

    :param longest_pause: the longest time between two looks at the pool if the feed does not work, in seconds
    """

    def __init__(self, longest_pause: float) -> None:
        self.longest_pause = longest_pause
        self._feed: Feed | None = None
        self._broken_at: float | None = None
        self._pause = FIRST_PAUSE

    def nap(self, seconds: float) -> None:
        """Sleep until the time is up or there is news."""
        feed = self._feed  # a signal handler may call `end` meanwhile
        if feed is None:
            time.sleep(seconds)
        else:
            feed.bell.wait(seconds)

    def begin(self, client: CouchDB | None) -> Callable[[], bool]:
        """Begin to wait, and return a function that returns whether it is time to ask again.

        :param client: the pool, None if it is unknown
        """
        feed = self._feed  # a signal handler may call `end` meanwhile
        if feed is not None and not feed.is_broken:
            feed.listen()
            is_time = After(LOOK * random.uniform(0.5, 1))  # not in step with other pilots
            calls = feed.calls
            return lambda: calls() or is_time()
        if feed is not None:
            self._give_up_feed()
        if client is not None and self._may_try_feed():
            feed = Feed(client)
            try:
                feed.arm()
            except _NO_FEED as error:
                log.info("The feed of changes does not work: %s", error)
                self._give_up_feed()
            else:
                self._feed = feed
                return always  # a token may have become free just before the feed began
        return self._after_pause()

    def end(self) -> None:
        """Stop waiting: there was a token, or the iteration has ended."""
        self._pause = FIRST_PAUSE
        self._close_feed()

    def _may_try_feed(self) -> bool:
        return self._broken_at is None or time.monotonic() - self._broken_at > FEED_RETRY

    def _give_up_feed(self) -> None:
        self._broken_at = time.monotonic()
        self._close_feed()

    def _close_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def _after_pause(self) -> After:
        pause = min(self._pause, self.longest_pause)
        self._pause *= 2
        return After(pause * random.uniform(0.75, 1))
