"""Lock tokens, and release others in the same request, so that each token has exactly one owner.

A lock is a write from a revision in which the token was free; CouchDB's revision check lets one of all pilots through.
On a cluster that is not enough: there only a write that a majority of the copies took makes an owner, and a lock that
fewer took is taken back (see `strays`). A lock whose answer was lost is looked up: the claim's id tells whose it is.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from couchdb.http import HTTPError

from ..clients import CouchDB
from ..documents import Document, Task
from ..exceptions import PicasError
from ..modifiers import is_free, is_same_lock
from ..tokens.retries import LONGEST_WAIT
from .candidates import Candidates
from .quorum import Stray, withdraw
from .results import ClaimedToken, Stage

log = logging.getLogger(__name__)

EMPTY_PAUSE = 0.3
"""Seconds until an empty view is asked once more before it counts as the end."""
LOOK = 10.0
"""Seconds after which a pilot that waits for the time of a token looks for others again at the latest."""
SPREAD = 0.1
MAX_SPREAD = 1.0
"""Pilots that wait for the same token look later by up to that part of their wait, and so many seconds: one comes early
enough, and the others find it taken."""
FIRST_BACKOFF = 0.01
SCARCE_BACKOFF = 0.4
"""Seconds that a claim waits at the most after a first conflict: for any token, and for one of the last."""
MAX_BACKOFF = 2.0
"""Seconds that a claim waits at the most after conflicts."""


@dataclass
class Exchange:
    """What came of asking for tokens."""

    locked: list[Task] = field(default_factory=list)
    """The tokens that are ours now."""
    is_over: bool = False
    """Whether there are no more tokens; what came before counts."""
    is_ready: Callable[[], bool] = lambda: True
    """Tells whether it is time to ask again."""
    next_at: float = -math.inf
    """Before this time, on the clock of `time.monotonic`, there is no token, unless others put some into the pool: all
    that are free wait for their next try, or there are none, and the time is infinite."""
    has_larger: bool = False
    """Whether there are tokens that wait for more room in this pilot; the rest speaks of the others."""


@dataclass
class Lock:
    """A lock that was sent."""

    task: Task
    base: dict[str, Any]
    """The token's content before it."""

    @classmethod
    def of(cls, document: Document, pilot: str) -> Lock:
        """Return the lock of a free token for a pilot; the document itself changes."""
        base = dict(document.value)
        return cls(Task(document).lock(pilot), base)


class Claimer:
    """Locks the tokens of some views: those of a later view only while all earlier ones are empty.

    A token that waits for its next try is not there yet, but while one does its view has not come to its end.

    :param views: the views
    :param recheck_empty: whether empty views are asked once more before that counts as the end
    """

    def __init__(self, *views: Candidates, recheck_empty: bool = True) -> None:
        self.views = views
        self.recheck_empty = recheck_empty
        self._unsure: list[Lock] = []  # sent, and no answer yet
        self._found: list[Task] = []  # of those the ones that turned out to be ours
        self._strays: list[Stray] = []  # to be taken back
        self._backoff = 0.0
        self._failures = 0  # in a row
        self._is_rechecked = False

    def exchange(self, client: CouchDB, pilot: str, releases: Sequence[ClaimedToken], wanted: int) -> Exchange:
        """Save the tokens that were processed and lock others, in one request if the answer comes.

        Each release that was saved is marked so; the others are still to be saved, which `ClaimedToken.save` does with
        all patience. Other pilots that want the same tokens never make this fail.

        :param client: the pool
        :param pilot: the id of the pilot that the tokens are locked for
        :param releases: tokens that this pilot holds and that are in their final state
        :param wanted: how many tokens to lock at the most
        :raises PicasError, couchdb.http.HTTPError: if the database refuses, or is away; never while there are releases
        """
        try:
            self._look_up(client)
            candidates, documents = self._candidates(client, wanted - len(self._found))
        except (PicasError, HTTPError) as error:
            if not releases and not self._found:
                raise
            log.debug("No candidates: %s", error)
            if releases:
                self._write(client, releases, [])
            return Exchange(self._take_found(wanted))  # whether there are more is not known
        locks = [Lock.of(document, pilot) for document in documents]
        locked = self._write(client, releases, locks) if releases or locks else []
        self._try_to_withdraw(client)
        found = self._take_found(wanted)
        if found or locked:
            self._start_anew()
        if candidates is not None and len(locked) < len(locks):
            self._failures += 1
            candidates.met_others(self._failures)
        if not wanted or found or locked:
            return Exchange(found + locked)
        if candidates is not None:
            return self._after_conflicts(candidates)
        if any(not release.is_saved or is_free(release.token) for release in releases):
            # The views were read before these tokens came back, or may still come back.
            self._is_rechecked = False
            self.look_anew()
        exchange = self._after_emptiness()
        exchange.has_larger = any(view.has_larger for view in self.views)
        return exchange

    def look_anew(self) -> None:
        """Read the views when tokens are asked for the next time, see `Candidates.look_anew`."""
        for view in self.views:
            view.look_anew()

    def settle(self, client: CouchDB) -> list[Task]:
        """Return the tokens that were locked by requests whose answers were lost.

        :raises PicasError, couchdb.http.HTTPError: if the database is still away; ask again later then
        """
        self._look_up(client)
        return self._take_found(len(self._found))

    def _take_found(self, wanted: int) -> list[Task]:
        found, self._found = self._found[:wanted], self._found[wanted:]
        return found

    def _look_up(self, client: CouchDB) -> None:
        """Find out what became of locks that got no answer."""
        while self._unsure:
            lock = self._unsure[-1]
            stored = _find(client, lock)
            self._unsure.pop()
            if stored is not None:
                if client.copies > 1:  # whether a majority has taken it can't be told any more
                    self._strays.append(Stray(stored, lock.base))
                else:
                    self._found.append(Task(stored))
        self._withdraw(client)

    def _withdraw(self, client: CouchDB) -> None:
        while self._strays:
            withdraw(client, self._strays[-1])
            self._strays.pop()

    def _try_to_withdraw(self, client: CouchDB) -> None:
        """Take strays back at once, since nobody else does; what fails now is tried before the next claim."""
        try:
            self._withdraw(client)
        except (PicasError, HTTPError) as error:
            log.warning("%s locks could not be taken back yet: %s", len(self._strays), error)

    def _candidates(self, client: CouchDB, wanted: int) -> tuple[Candidates | None, list[Document]]:
        if wanted > 0:
            for candidates in self.views:
                documents = candidates.take(client, wanted)
                if documents:
                    return candidates, documents
        return None, []

    def _write(self, client: CouchDB, releases: Sequence[ClaimedToken], locks: Sequence[Lock]) -> list[Task]:
        """Save releases and locks and return the tokens that are ours now."""
        sent = [release for release in releases if _is_storable(release)]
        self._unsure += locks
        try:
            written = client.write_documents([release.token for release in sent] + [lock.task for lock in locks])
        except Exception as error:  # also what JSON can't hold: a token does not end the pilot
            if not releases:
                raise
            log.debug("Releasing alone: %s", error)
            return []
        del self._unsure[len(self._unsure) - len(locks) :]
        for release, rev in zip(sent, written.revs):
            if rev is not None:
                release.advance(Stage.SAVED)
        ours = []
        first = len(sent)
        for lock, rev, has_quorum in zip(locks, written.revs[first:], written.has_quorum[first:]):
            if rev is None:
                if written.was_lost and client.copies > 1:
                    self._unsure.append(lock)  # it may hide behind another branch
                continue
            if has_quorum or client.copies == 1:
                ours.append(lock.task)
            else:
                self._strays.append(Stray(lock.task.value, lock.base))
        return ours

    def _start_anew(self) -> None:
        self._backoff = 0.0
        self._failures = 0
        self._is_rechecked = False

    def _after_conflicts(self, candidates: Candidates) -> Exchange:
        self._is_rechecked = False
        # The last tokens are taken by others while some wait; each that does not saves the server a reading.
        least = SCARCE_BACKOFF if candidates.are_scarce else FIRST_BACKOFF
        self._backoff = min(max(self._backoff * 2, least), MAX_BACKOFF)
        return Exchange(is_ready=_after(random.uniform(0, self._backoff)))

    def _after_emptiness(self) -> Exchange:
        ready_at = min((view.ready_at for view in self.views), default=math.inf)
        wait = max(0.0, ready_at - time.monotonic())
        if wait <= LONGEST_WAIT:
            self._start_anew()
            later = random.uniform(0, min(SPREAD * wait, MAX_SPREAD))
            # Whoever asks again anyway waits in its own way.
            is_over = not self.recheck_empty
            return Exchange([], is_over, _after(min(wait + later, LOOK)), next_at=ready_at + later)
        # Right after conflicts the view may lag, and otherwise somebody may be filling the pool right now.
        if self._is_rechecked or not self.recheck_empty:
            self._start_anew()
            return Exchange(is_over=True, next_at=ready_at)
        self._is_rechecked = True
        return Exchange(is_ready=_after(EMPTY_PAUSE + random.uniform(0, self._backoff)))


def _is_storable(release: ClaimedToken) -> bool:
    """Make a token into something that the database can take, and return whether that worked."""
    try:
        release.make_storable()
    except Exception as error:  # a value's own code runs
        log.debug("Releasing %s alone: %s", release.id, error)
        return False
    return True


def _find(client: CouchDB, lock: Lock) -> dict[str, Any] | None:
    """Return the token as it was stored with a lock, None if it was not, or is not any more."""
    if client.copies > 1:  # readers see one of the branches
        branches = client.read_branches(lock.task.id)
    else:
        try:
            branches = [client.get(lock.task.id).value]
        except ValueError:
            return None
    return next((branch for branch in branches if is_same_lock(branch, lock.task)), None)


def _after(seconds: float) -> Callable[[], bool]:
    """Return a function that tells whether so many seconds have passed."""
    ready = time.monotonic() + seconds
    return lambda: time.monotonic() >= ready
