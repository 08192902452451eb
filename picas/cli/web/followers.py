"""The output of programs while they write it: one reader for each, whoever and how many look at it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable

from couchdb.http import HTTPError

from ... import console
from ...clients import CouchDB
from ...couch.answers import is_locked_out, is_unknown_user
from ...exceptions import PicasError
from ...picaslogger import get_logger
from ...pilot.orders import follow
from ...util import one_line
from .poller import REFUSED_PAUSE

log = get_logger(__name__)

KEPT = 1 << 16
"""Characters of an output that are kept, from its end, for a page that comes later."""
LINGER = 3.0
"""Seconds for which nobody has to look until an output is no longer read: a page that is loaded again finds it."""
AGAIN = 2.0
"""Seconds until the next try after the server was away."""


class _Unwatched(Exception):
    """Nobody looks any more."""


class Follower:
    """Reads the output of a token's program until the token is no longer at work, or until nobody looks.

    :param client: the pool
    :param token_id: the id of the token
    :param is_err: whether to read the standard error rather than the standard output
    :param notify: called in the follower's thread when there is something new
    :param may_end: returns whether nobody looks, and will not any more
    """

    def __init__(
        self, client: CouchDB, token_id: str, is_err: bool, notify: Callable[[], Any], may_end: Callable[[], bool]
    ) -> None:
        self._client = client
        self._token_id = token_id
        self._is_err = is_err
        self._notify = notify
        self._may_end = may_end
        self._lock = threading.Lock()
        self._text = ""
        self._size = 0  # characters that were read, those that are not kept any more included
        self.part = 0
        """Counts how often the reading has begun anew."""
        self.has_ended = False
        """Whether the token is no longer at work."""
        self.problem: str | None = None
        """Why nothing is read at the moment, on one line."""

    def news(self, part: int, seen: int) -> tuple[str, int, bool]:
        """Return what a page has not seen yet, how much it has seen then, and whether it is to begin anew.

        :param part: the `part` that the page has seen
        :param seen: how many characters of it
        """
        with self._lock:
            begin = self._size - len(self._text)
            if part != self.part or seen < begin:
                return self._text, self._size, True
            return self._text[seen - begin :], self._size, False

    def run(self) -> None:
        """Read, until the token is no longer at work or nobody looks."""
        while True:
            pause = AGAIN
            try:
                for text in follow(self._client, self._token_id, is_err=self._is_err, sleep=self._sleep):
                    self._add(text)
            except _Unwatched:
                return
            except (PicasError, HTTPError, OSError) as error:
                self._set_problem(console.describe(error))
                if is_unknown_user(error) or is_locked_out(error):
                    pause = REFUSED_PAUSE
            except Exception as error:  # the pages must not wait without a word
                log.exception("The output of %s could not be read", self._token_id)
                self._set_problem(one_line(f"{type(error).__name__}: {error}"))
            else:
                self.has_ended = True
                self._notify()
                return
            try:
                for _ in range(round(pause / AGAIN)):
                    self._sleep(AGAIN)
            except _Unwatched:
                return
            with self._lock:  # the next text is the whole end of the output
                self._text, self._size, self.part = "", 0, self.part + 1

    def _add(self, text: str) -> None:
        with self._lock:
            self._text = (self._text + text)[-KEPT:]
            self._size += len(text)
        self.problem = None
        self._notify()

    def _set_problem(self, problem: str) -> None:
        self.problem = problem
        self._notify()

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        if self._may_end():
            raise _Unwatched


@dataclass
class _Running:
    """A follower and those who look at it."""

    follower: Follower
    viewers: int = 0
    unwatched_since: float = 0.0
    """By the monotonic clock."""


class Followers:
    """The outputs that somebody looks at.

    :param client: the pool
    :param notify: called in a follower's thread when there is something new
    """

    def __init__(self, client: CouchDB, notify: Callable[[], Any]) -> None:
        self._client = client
        self._notify = notify
        self._lock = threading.Lock()
        self._running: dict[tuple[str, bool], _Running] = {}

    @property
    def count(self) -> int:
        """How many outputs are read now."""
        return len(self._running)

    @contextlib.contextmanager
    def watching(self, token_id: str, is_err: bool) -> Iterator[Follower]:
        """Return the follower of an output for the time that a page looks at it."""
        key = token_id, is_err
        with self._lock:
            running = self._running.get(key)
            if running is None:
                running = self._running[key] = self._start(key)
            running.viewers += 1
        try:
            yield running.follower
        finally:
            with self._lock:
                running.viewers -= 1
                running.unwatched_since = time.monotonic()

    def _start(self, key: tuple[str, bool]) -> _Running:
        def may_end() -> bool:
            with self._lock:
                if running.viewers or time.monotonic() - running.unwatched_since < LINGER:
                    return False
                self._drop(key, running)  # with the lock, so that nobody joins it any more
                return True

        def run() -> None:
            try:
                running.follower.run()
            finally:
                with self._lock:
                    self._drop(key, running)

        running = _Running(Follower(self._client, *key, self._notify, may_end))
        threading.Thread(target=run, name="picas-web-log", daemon=True).start()
        return running

    def _drop(self, key: tuple[str, bool], running: _Running) -> None:
        if self._running.get(key) is running:
            del self._running[key]
