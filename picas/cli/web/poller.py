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
from ...couch.answers import is_locked_out, is_unknown_user
from ...couch.outages import is_outage
from ...exceptions import PicasError
from ...picaslogger import get_logger
from ...pilot.overview import Overview, OverviewReader
from ...pool.failures import Example, Failures, find_failures
from ...pool.history import MINUTE, Bin, End, ends_by_minute, newest_ends
from ...pool.indexing import Indexing, wait_for_index
from ...util import one_line
from ...views import DESIGN_DOC, count_states
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
OLD = 12.0
"""Seconds after which counts are old, if something can't be read."""
REFUSED_PAUSE = 180.0
"""Seconds without a request after the server has refused the user: CouchDB locks an account out, for this whole machine
and so for its pilots too, after five wrong passwords within five minutes."""
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
    """When the rest was read, in seconds since the epoch; 0 if it was not yet."""
    ended: dict[str, int] | None = None
    """How many attempts have ended since the page was started, by outcome."""
    away_since: float | None = None
    """Since when the server does not answer, in seconds since the epoch; None if it does."""
    problem: str | None = None
    """Why not, or why only the counts could be read, on one line."""
    indexing: str | None = None
    """How far the server is with its views, while something can't be read because of that."""
    number: int = 0
    """Counts the snapshots."""

    @property
    def is_up(self) -> bool:
        """Whether the counts are of now: the server has answered, and the database is there."""
        return self.away_since is None and (self.problem is None or time.time() - self.time < OLD)


class Poller:
    """Looks at the pool for all who want to know: a thread for the counts, and one for the rest, which takes longer.

    :param client: the pool
    :param notify: called in one of these threads after each look
    :param at_start: called while the server indexes the views of the states, before the first look
    :raises couchdb.ResourceNotFound: if the pool has no views
    """

    def __init__(self, client: CouchDB, notify: Callable[[], Any], at_start: Callable[[Indexing], Any]) -> None:
        self._client = client
        self._notify = notify
        self._changed = threading.Condition()
        self._viewers = 0
        self._asked = -float("inf")  # when somebody asked last, by the monotonic clock
        self._is_stopped = False
        self._refused_until = -float("inf")  # by the monotonic clock
        self._examples: dict[str, Example] = {}
        self._tally = EndsTally(time.time())
        self._reader = OverviewReader(client, notify=self._note_indexing)
        wait_for_index(client, DESIGN_DOC, at_start)
        self._snapshot = Snapshot(Overview(count_states(client)), time=time.time())

    def start(self) -> None:
        """Start to look."""
        for look, interval in ((self._count, INTERVAL), (self._read_rest, DETAILS_INTERVAL)):
            threading.Thread(target=self._repeat, args=(look, interval), name="picas-web-poller", daemon=True).start()

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

    def check(self) -> None:
        """Do nothing, unless the server has refused the user a moment ago.

        :raises PicasError: if it has: it must not be asked again so soon
        """
        if self._is_refused:
            raise PicasError(self._snapshot.problem or "the server refuses this user")

    @property
    def _is_refused(self) -> bool:
        return time.monotonic() < self._refused_until

    def current(self) -> Snapshot:
        """Return what is known, after a look if the last one was too long ago; wait for that, unless it fails."""
        give_up = time.monotonic() + PATIENCE
        with self._changed:
            self._asked = time.monotonic()
            before = self._snapshot.number
            self._changed.notify_all()
            while not (self._is_fresh() or self._is_stopped):
                left = give_up - time.monotonic()
                looks = self._snapshot.number - before
                has_failed = self._snapshot.away_since is not None and looks > 0
                has_failed |= self._snapshot.problem is not None and looks > 1  # the counts, and the rest
                if left <= 0 or self._is_refused or has_failed:
                    break
                self._asked = time.monotonic()
                self._changed.wait(min(left, LINGER / 2))
            return self._snapshot

    def _is_fresh(self) -> bool:
        now = time.time()
        counts, details = self._snapshot.time, self._snapshot.details_time
        return abs(now - counts) < 1.5 * INTERVAL and abs(now - details) < 2 * DETAILS_INTERVAL

    def _repeat(self, look: Callable[[], None], interval: float) -> None:
        """Look again and again as long as somebody wants to know; sooner if it has failed."""
        next_look = 0.0
        while self._wait_until(next_look):
            next_look = time.monotonic() + interval
            try:
                look()
            except (PicasError, HTTPError, OSError) as error:
                self._fail(*self._judge(error))
                next_look = time.monotonic() + INTERVAL
            except Exception as error:  # the pages must not stand still without a word
                log.exception("The pool could not be read")
                self._fail(one_line(f"{type(error).__name__}: {error}"), False)

    def _judge(self, error: Exception) -> tuple[str, bool]:
        """Return one line about an error, and whether the server is away; take note of a refusal."""
        line = console.describe(error)
        if not (is_unknown_user(error) or is_locked_out(error)):
            return line, is_outage(error)
        with self._changed:
            self._refused_until = time.monotonic() + REFUSED_PAUSE
        return f"{line}; then start picas web again, or wait for some minutes", False

    def _wait_until(self, when: float) -> bool:
        """Wait until it is time for a look that somebody wants, and return True; return False at the end.

        :param when: by the monotonic clock
        """
        with self._changed:
            while not self._is_stopped:
                when = max(when, self._refused_until)
                if not self._viewers and time.monotonic() - self._asked > LINGER:
                    self._changed.wait()
                elif time.monotonic() < when:
                    self._changed.wait(when - time.monotonic())
                else:
                    return True
            return False

    def _count(self) -> None:
        counts = count_states(self._client)
        self._change(
            lambda known: replace(
                known, overview=replace(known.overview, counts=counts), time=time.time(), away_since=None
            )
        )

    def _read_rest(self) -> None:
        overview, now = self._reader.read(), time.time()
        known: dict[str, Any] = {"failures": None, "history": None, "newest": None, "ended": None}
        with contextlib.suppress(ResourceNotFound):  # without Report, all else is shown
            first = max(now - MINUTE * MAX_HISTORY, min(now - MINUTE * (HISTORY - 1), self._tally.known_until))
            bins = ends_by_minute(self._client, first, now)
            self._tally.add(bins)
            known = {
                "failures": find_failures(self._client, examples=self._examples),
                "history": tuple(bins[-HISTORY:]),
                "newest": tuple(newest_ends(self._client, NEWEST)),
                "ended": self._tally.totals(),
            }
        self._change(
            lambda before: replace(
                before,
                overview=replace(overview, counts=before.overview.counts),
                details_time=now,
                problem=None,
                indexing=None,
                **known,
            )
        )

    def _fail(self, problem: str, is_away: bool) -> None:
        now = time.time()

        def change(known: Snapshot) -> Snapshot:
            since = known.away_since
            return replace(known, problem=problem, indexing=None, away_since=(since or now) if is_away else since)

        self._change(change)

    def _note_indexing(self, indexing: Indexing) -> None:
        self._change(lambda known: replace(known, indexing=str(indexing) if indexing.left else None))

    def _change(self, change: Callable[[Snapshot], Snapshot]) -> None:
        with self._changed:
            self._snapshot = replace(change(self._snapshot), number=self._snapshot.number + 1)
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
