"""The one who looks at the pool for all pages: a thread that reads again and again, as long as somebody wants to know.

The counts are read every few seconds with one request, the rest less often, as `picas status --watch` does it. When no
page is open and nobody has asked for a while, nothing is read.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Callable

from couchdb.http import HTTPError, ResourceNotFound

from ... import console
from ...clients import CouchDB
from ...exceptions import PicasError
from ...picaslogger import get_logger
from ...pilot.overview import Overview, OverviewReader
from ...pool.failures import Example, Failures, find_failures
from ...pool.history import MINUTE, Bin, End, ends_by_minute, newest_ends
from ...pool.indexing import Indexing
from ...util import one_line
from .tally import EndsTally

log = get_logger(__name__)

INTERVAL = 2.0
"""Seconds between two looks at the counts."""
DETAILS_INTERVAL = 15.0
"""Seconds between two looks at all the rest."""
LINGER = 5.0
"""Seconds for which the pool is looked at after the last question of a program, such as Prometheus."""
PATIENCE = 20.0
"""Seconds that such a question waits for a fresh look at most."""
HISTORY = 60
"""Minutes of the past in which ends of attempts are counted for the page."""
MAX_HISTORY = 24 * 60
"""Minutes that are read at most after a time in which nobody has looked."""
NEWEST = 12
"""How many of the newest ends are read."""


@dataclass(frozen=True)
class Snapshot:
    """What is known of the pool. Each look makes a new one."""

    overview: Overview
    failures: Failures | None = None
    """None without the design document Report, as the next two."""
    history: tuple[Bin, ...] | None = None
    """The attempts that have ended in each of the last minutes."""
    newest: tuple[End, ...] | None = None
    """The newest ends of attempts."""
    time: float = 0.0
    """When the counts were read, in seconds since the epoch."""
    details_time: float = 0.0
    """When the rest was read, in seconds since the epoch."""
    ended: dict[str, int] | None = None
    """How many attempts have ended since the page was started, by outcome."""
    away_since: float | None = None
    """Since when the server does not answer, in seconds since the epoch; None if it does."""
    problem: str | None = None
    """Why not, on one line."""
    indexing: str | None = None
    """How far the server is with its views, while nothing can be read because of that."""
    number: int = 0
    """Counts the snapshots."""


class Poller:
    """Looks at the pool for all who want to know.

    :param client: the pool
    :param notify: called in the poller's thread after each look that has brought something new
    :param at_start: called while the server indexes its views before the first look
    :raises couchdb.ResourceNotFound: if the pool has no views
    """

    def __init__(self, client: CouchDB, notify: Callable[[], Any], at_start: Callable[[Indexing], Any]) -> None:
        self._client = client
        self._notify = notify
        self._changed = threading.Condition()
        self._viewers = 0
        self._asked = -float("inf")  # when somebody asked last, by the monotonic clock
        self._is_stopped = False
        self._examples: dict[str, Example] = {}
        self._tally = EndsTally(time.time())
        self._at_start: Callable[[Indexing], Any] | None = at_start
        self._reader = OverviewReader(client, notify=self._note_indexing)
        self._snapshot = self._with_details(Snapshot(self._reader.read(), time=time.time()))
        self._at_start = None

    def start(self) -> None:
        """Start to look."""
        threading.Thread(target=self._run, name="picas-web-poller", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    @property
    def snapshot(self) -> Snapshot:
        """What is known now; it may be old if nobody has looked for a while."""
        return self._snapshot

    def join(self) -> None:
        """Look at the pool from now on, until `leave`."""
        with self._changed:
            self._viewers += 1
            self._changed.notify_all()

    def leave(self) -> None:
        """Take `join` back."""
        with self._changed:
            self._viewers -= 1

    def current(self) -> Snapshot:
        """Return what is known, after a look if the last one was too long ago; wait for that."""
        give_up = time.monotonic() + PATIENCE
        with self._changed:
            self._asked = time.monotonic()
            if not self._is_fresh():
                before = self._snapshot.number
                self._changed.notify_all()
                while self._snapshot.number == before and not self._is_stopped:
                    left = give_up - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
            return self._snapshot

    def _is_fresh(self) -> bool:
        now = time.time()
        counts, details = self._snapshot.time, self._snapshot.details_time
        return abs(now - counts) < 2 * INTERVAL and abs(now - details) < 2 * DETAILS_INTERVAL

    def _is_wanted(self) -> bool:
        return self._viewers > 0 or time.monotonic() - self._asked < LINGER

    def _run(self) -> None:
        details = time.monotonic()
        next_look = 0.0
        while True:
            with self._changed:
                while not self._is_stopped:
                    if not self._is_wanted():
                        self._changed.wait()
                    elif time.monotonic() < next_look:
                        self._changed.wait(next_look - time.monotonic())
                    else:
                        break
                if self._is_stopped:
                    return
            next_look = time.monotonic() + INTERVAL
            is_due = time.monotonic() - details >= DETAILS_INTERVAL or self._snapshot.away_since is not None
            if self._look(with_details=is_due) and is_due:
                details = time.monotonic()

    def _look(self, with_details: bool) -> bool:
        """Look once, and return whether the server has answered."""
        before = self._snapshot
        try:
            if with_details:
                after = self._with_details(replace(before, overview=self._reader.read(), time=time.time()))
            else:
                after = replace(before, overview=self._reader.refresh(before.overview), time=time.time())
            after = replace(after, away_since=None, problem=None, indexing=None)
        except (PicasError, HTTPError, OSError) as error:
            self._fail(console.describe(error))
            return False
        except Exception as error:  # the pages must not stand still without a word
            log.exception("The pool could not be read")
            self._fail(one_line(f"{type(error).__name__}: {error}"))
            return False
        self._set(after)
        return True

    def _with_details(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot with what only the design document Report knows, if there is one."""
        now = time.time()
        snapshot = replace(snapshot, details_time=now)
        with contextlib.suppress(ResourceNotFound):
            first = max(now - MINUTE * MAX_HISTORY, min(now - MINUTE * (HISTORY - 1), self._tally.known_until))
            bins = ends_by_minute(self._client, first, now)
            self._tally.add(bins)
            return replace(
                snapshot,
                failures=find_failures(self._client, examples=self._examples),
                history=tuple(bins[-HISTORY:]),
                newest=tuple(newest_ends(self._client, NEWEST)),
                ended=self._tally.totals(),
            )
        return replace(snapshot, failures=None, history=None, newest=None, ended=None)

    def _fail(self, problem: str) -> None:
        since = self._snapshot.away_since
        away_since = time.time() if since is None else since
        self._set(replace(self._snapshot, away_since=away_since, problem=problem, indexing=None))

    def _note_indexing(self, indexing: Indexing) -> None:
        if self._at_start is not None:
            self._at_start(indexing)
            return
        self._set(replace(self._snapshot, indexing=str(indexing) if indexing.left else None))

    def _set(self, snapshot: Snapshot) -> None:
        with self._changed:
            self._snapshot = replace(snapshot, number=self._snapshot.number + 1)
            self._changed.notify_all()
        self._notify()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the pool during a block."""
        self.join()
        try:
            yield
        finally:
            self.leave()
