"""Reading a pool again and again, in threads of its own: what the live view shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Callable, Union

from couchdb.http import HTTPError, ResourceNotFound

from ... import console
from ...clients import CouchDB
from ...couch.outages import is_outage_at_start
from ...exceptions import PicasError
from ...pilot.fleet import FleetCount, PilotSummary, count_fleet, list_pilots
from ...pilot.orders import Pause, find_pause
from ...pilot.overview import Overview
from ...pool.failures import MAX_GROUPS, Example, Failures, find_failures
from ...pool.history import MINUTE, Bin, End, ends_by_minute, newest_ends
from ...pool.indexing import Indexing, wait_for_index
from ...pool.progress import WINDOW, Rate, rate_of
from ...pool.token_pages import TokenPage
from ...tokens.states import STATES
from ...views import REPORT, count_states
from .shelf import Shelf

INTERVAL = 2.0
"""Seconds between two looks at the counts, each one request."""
DETAILS_INTERVAL = 15.0
"""Seconds between two looks at all the rest. Both together send less than one request a second."""
MAX_PILOTS = 500
"""The most pilots that are listed; all of them are counted."""
MAX_ENDS = 100
"""The number of newest ends that are listed."""


@dataclass(frozen=True)
class Details:
    """What is read less often than the counts."""

    time: float
    """When it was read, in seconds since the epoch."""
    pause: Pause | None
    fleet: FleetCount
    pilots: tuple[PilotSummary, ...]
    """Those that run: silent ones first, then in the order of their ids."""
    failures: Failures | None = None
    """None, as the two below, if it is unknown (yet)."""
    history: tuple[Bin, ...] | None = None
    """How many attempts have ended in each of the last minutes, the oldest first."""
    ends: tuple[End, ...] | None = None
    lacks_report: bool = False
    """Whether that is so because there is no design document Report."""

    @property
    def rate(self) -> Rate | None:
        """How many tokens have ended lately; None if no pilot runs, or if that is unknown."""
        if self.history is None or not self.fleet.running:
            return None
        return rate_of(self.history, self.time, self.fleet.since)


@dataclass(frozen=True)
class Snapshot:
    """A pool as it was read last. What has not been read yet is None."""

    counts: Mapping[str, int]
    """The number of tokens in each state."""
    details: Details | None = None
    shelf: Shelf | None = None
    """Which tokens the page has."""
    page: TokenPage | None = None

    @property
    def overview(self) -> Overview:
        """What `picas status` describes."""
        counts, details = dict(self.counts), self.details
        if details is None:
            return Overview(counts)
        return Overview(counts, details.pause, details.fleet, details.rate, details.failures)


@dataclass(frozen=True)
class Problem:
    """Why something could not be read."""

    text: str
    """A line for people."""
    is_away: bool
    """Whether not even the counts can be read."""
    is_refused: bool = False
    """Whether the server has answered, but with an error that does not pass by itself."""


Event = Union[Snapshot, Problem, Indexing]


class PoolReader:
    """Reads a pool.

    :param client: the pool
    """

    def __init__(self, client: CouchDB) -> None:
        self.client = client
        self.minutes = WINDOW
        """For how many minutes back the history is read."""
        self._examples: dict[str, Example] = {}

    def counts(self) -> dict[str, int]:
        """Return the number of tokens in each state, with one request.

        :raises couchdb.ResourceNotFound: if the views were not created
        """
        counts = count_states(self.client)
        return {state: counts[state] for state in STATES}

    def pilots(self) -> Details:
        """Return what is known without the design document Report, with two requests."""
        pilots, pause, now = list_pilots(self.client), find_pause(self.client), time.time()
        running = sorted(
            (pilot for pilot in pilots if pilot.is_running),
            key=lambda pilot: (pilot.silent_since(now) is None, pilot.id),
        )
        return Details(now, pause, count_fleet(running, now), tuple(running[:MAX_PILOTS]))

    def details(self) -> Details:
        """Return all the rest, with five requests, and one for each group of failures that is new."""
        details = self.pilots()
        first = details.time - MINUTE * self.minutes
        try:
            return replace(
                details,
                failures=find_failures(self.client, MAX_GROUPS, self._examples),
                history=tuple(ends_by_minute(self.client, first, details.time, self.minutes + 1)),
                ends=tuple(newest_ends(self.client, MAX_ENDS)),
            )
        except ResourceNotFound:
            return replace(details, lacks_report=True)


class Poller:
    """Reads a pool in three threads, so that what takes long holds nothing else up, and passes on what it has found.

    The threads end with the process, since a request may take as long as the server lets it.

    :param reader: reads the pool
    :param counts: the counts as they are now
    :param notify: called in these threads with what is new
    """

    def __init__(self, reader: PoolReader, counts: Mapping[str, int], notify: Callable[[Event], Any]) -> None:
        self._reader = reader
        self._notify = notify
        self._lock = threading.Lock()
        self._snapshot = Snapshot(counts)
        self._shelf: Shelf | None = None
        self._is_stopped = False
        self._wake_counts, self._wake_details, self._wake_page = (threading.Event() for _ in range(3))
        self._has_report = False
        self._is_away = False

    @property
    def snapshot(self) -> Snapshot:
        """What was read last."""
        return self._snapshot

    def start(self) -> None:
        """Start the threads."""
        for look, wake, interval in (
            (self._look_at_counts, self._wake_counts, INTERVAL),
            (self._look_at_details, self._wake_details, DETAILS_INTERVAL),
            (self._look_at_page, self._wake_page, DETAILS_INTERVAL),
        ):
            threading.Thread(target=self._run, args=(look, wake, interval), name="picas-top", daemon=True).start()

    def stop(self) -> None:
        """Read nothing more."""
        self._is_stopped = True
        self.wake()

    def wake(self) -> None:
        """Read everything now."""
        for wake in (self._wake_counts, self._wake_details, self._wake_page):
            wake.set()

    def show(self, shelf: Shelf | None) -> None:
        """Read a page of tokens, too, from now on; None for none."""
        if shelf != self._shelf:
            self._shelf = shelf
            self._wake_page.set()

    def _run(self, look: Callable[[], None], wake: threading.Event, interval: float) -> None:
        while not self._is_stopped:
            wake.clear()
            try:
                look()
            except Exception as error:  # whatever it is, the next look may find the pool well
                is_away = look == self._look_at_counts
                self._is_away |= is_away
                is_refused = isinstance(error, (PicasError, HTTPError)) and not is_outage_at_start(error)
                self._notify(Problem(console.describe(error), is_away, is_refused))
            wake.wait(interval)

    def _look_at_counts(self) -> None:
        counts = self._reader.counts()
        self._update(counts=counts)
        if self._is_away:  # it is back
            self._is_away = False
            self.wake()

    def _look_at_details(self) -> None:
        if not self._has_report:
            self._update(details=self._reader.pilots())
            self._wait_for_report()
        self._update(details=self._reader.details())

    def _look_at_page(self) -> None:
        shelf = self._shelf
        if shelf is not None:
            self._update(shelf=shelf, page=shelf.read(self._reader.client))

    def _wait_for_report(self) -> None:
        """Wait until the server has indexed what only people read, since nobody may have asked for it lately."""
        try:
            self._has_report = wait_for_index(self._reader.client, REPORT, self._notify, lambda: self._is_stopped)
        except ResourceNotFound:
            return

    def _update(self, **news: Any) -> None:
        with self._lock:
            self._snapshot = replace(self._snapshot, **news)
        self._notify(self._snapshot)
