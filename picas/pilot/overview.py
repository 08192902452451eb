"""A pool at a glance: counts, progress, pilots, failures, and what needs a person's attention."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import Any, Callable

from couchdb.http import HTTPError, ResourceNotFound

from ..clients import CouchDB
from ..exceptions import PicasError
from ..pool.completion import tokens_left
from ..pool.failures import Example, Failures, find_failures
from ..pool.indexing import Indexing, wait_for_index
from ..pool.progress import Rate, find_rate
from ..tokens.states import STATES
from ..views import (
    DESIGN_DOC,
    NO_STATE,
    REPORT,
    TASKS,
    count_all,
    count_states,
    tokens_in_conflict,
    unseen,
)
from .fleet import FleetCount, PilotSummary, count_fleet, list_pilots
from .kinds import NO_NEEDS, NeedsSurvey, survey_needs
from .orders import Pause, find_pause

MAX_SHOWN = 10
"""The number of ids that are read of documents that need attention."""
MAX_GROUPS = 5
"""The number of groups of failures."""


@dataclass(frozen=True)
class Documents:
    """Documents that need a person's attention."""

    count: int = 0
    ids: tuple[str, ...] = ()
    """The first of their ids."""


@dataclass(frozen=True)
class Overview:
    """A pool, or the tokens of a design document with a condition; of these, only what is not of the whole pool."""

    counts: dict[str, int]
    """The number of tokens in each state."""
    pause: Pause | None = None
    fleet: FleetCount | None = None
    rate: Rate | None = None
    """How many tokens have ended lately; None if no pilot runs, or if that is unknown."""
    failures: Failures | None = None
    """None if they are unknown: without the design document Report."""
    no_state: Documents = Documents()
    """Tokens in none of the states."""
    tasks: Documents = Documents()
    """Documents with the type "task" instead of "token"."""
    conflicts: Documents = Documents()
    """Tokens with conflicting revisions."""
    needs: NeedsSurvey = NO_NEEDS
    """What is wrong with the needs of free tokens."""
    pilots: tuple[PilotSummary, ...] = ()
    """The pilots that run, and those that were found dead."""

    @property
    def tokens_left(self) -> int:
        """How many tokens are todo or locked."""
        return tokens_left(self.counts)

    @property
    def seconds_left(self) -> float | None:
        """How long the tokens that are left will take at this rate, None if that is unknown."""
        if self.rate is None or self.pause is not None or not self.tokens_left:
            return None
        return self.rate.seconds_for(self.tokens_left)


class OverviewReader:
    """Reads what there is to know of a pool, again and again if need be.

    :param client: the pool
    :param design_doc: the design document whose tokens are meant. Only with Monitor, what is known of the whole pool
        (its pilots, failures, rate and pause) is read.
    :param notify: called while the server indexes a design document, see `pool.indexing`
    """

    def __init__(
        self, client: CouchDB, design_doc: str = DESIGN_DOC, notify: Callable[[Indexing], Any] = lambda indexing: None
    ) -> None:
        self._client = client
        self._design_doc = design_doc
        self._notify = notify
        self._examples: dict[str, Example] = {}
        self._indexed: set[str] = set()

    def read(self) -> Overview:
        """Return all that is known.

        :raises couchdb.ResourceNotFound: if there is no such design document
        """
        self._wait_for_index(self._design_doc)
        counts = count_all(self._client, self._design_doc)
        overview = Overview(
            {state: counts[state] for state in STATES},
            no_state=self._documents(NO_STATE, counts),
            tasks=self._documents(TASKS, counts),
        )
        if self._design_doc == DESIGN_DOC:
            overview = self._with_pool(overview)
        with contextlib.suppress(ResourceNotFound):  # the views of an older release
            count, ids = tokens_in_conflict(self._client, self._design_doc, MAX_SHOWN)
            overview = replace(overview, conflicts=Documents(count, tuple(ids)))
        with contextlib.suppress(ResourceNotFound, RecursionError):  # or the needs of a token are nested too deeply
            overview = replace(overview, needs=survey_needs(self._client, self._design_doc))
        return overview

    def refresh(self, overview: Overview) -> Overview:
        """Return an overview with the counts as they are now, with one request."""
        self._wait_for_index(self._design_doc)
        try:
            return replace(overview, counts=count_states(self._client, self._design_doc))
        except (PicasError, HTTPError):
            self._indexed.clear()  # the server may be indexing what was pushed: the next call looks
            raise

    def _with_pool(self, overview: Overview) -> Overview:
        now = time.time()
        pilots = list_pilots(self._client)
        fleet = count_fleet(pilots, now)
        overview = replace(overview, pause=find_pause(self._client), fleet=fleet, pilots=tuple(pilots))
        try:
            self._wait_for_index(REPORT)
            return replace(
                overview,
                failures=find_failures(self._client, MAX_GROUPS, self._examples),
                rate=find_rate(self._client, now, fleet.since) if fleet.running else None,
            )
        except ResourceNotFound:
            return overview

    def _documents(self, kind: str, counts: dict[str, int]) -> Documents:
        if not counts.get(kind):
            return Documents()
        count, ids = unseen(self._client, kind, self._design_doc, MAX_SHOWN)
        return Documents(count, tuple(ids))

    def _wait_for_index(self, design_doc: str) -> None:
        if design_doc in self._indexed:
            return  # it is asked often enough
        wait_for_index(self._client, design_doc, self._notify)
        self._indexed.add(design_doc)
