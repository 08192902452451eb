"""Locking tokens, and saving others in the same request, so that each token has exactly one owner.

A lock is a write that replaces a revision in which the token was free; CouchDB's revision check lets one pilot succeed.
On a cluster that is not enough: there a pilot owns a token only if a majority of the copies took its write, and a lock
that fewer took is withdrawn (see `quorum`). A lock whose answer was lost is looked up: the claim's id says whose it is.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from couchdb.http import HTTPError

from ..clients import CouchDB
from ..documents import Document, Task
from ..exceptions import NoSuchDocument, PicasError
from ..modifiers import is_free, is_same_lock
from ..picaslogger import get_logger
from ..tokens.retries import LONGEST_WAIT
from ..util import After, always
from .candidates import Candidates
from .quorum import Stray, withdraw
from .results import ClaimedToken, Stage

log = get_logger(__name__)

EMPTY_PAUSE = 0.3
"""Seconds after which an empty view is read once more before that counts as the end."""
LOOK = 10.0
"""The longest time, in seconds, that a pilot waits for the time of a token before it looks for others again."""
SPREAD = 0.1
MAX_SPREAD = 1.0
"""Pilots that wait for the same token look later by a random time: at most this share of their wait, and at most this
many seconds. One of them comes early enough, and the others find the token locked."""
FIRST_BACKOFF = 0.01
"""The longest pause after a first conflict, in seconds."""
SCARCE_BACKOFF = 0.4
"""The longest pause after a first conflict if few tokens are left, in seconds."""
MAX_BACKOFF = 2.0
"""The longest pause after any number of conflicts, in seconds."""


@dataclass
class Exchange:
    """The answer to a request for tokens."""

    locked: list[Task] = field(default_factory=list)
    """The tokens that are ours now."""
    is_over: bool = False
    """Whether there are no more tokens, after those in `locked`."""
    is_ready: Callable[[], bool] = always
    """Returns whether it is time to ask again."""
    next_at: float = -math.inf
    """There is no token before this time, on the clock of `time.monotonic`, unless somebody adds some: all free tokens
    wait for their next try. Infinity if there are no free tokens."""
    has_larger: bool = False
    """Whether there are tokens that wait for more room in this pilot; the other fields do not count them."""


@dataclass
class Lock:
    """A lock that is to be written."""

    token: Task
    """The token, locked."""
    base: dict[str, Any]
    """The token's content before the lock."""

    @classmethod
    def of(cls, token: Document, pilot: str) -> Lock:
        """Lock a free token for a pilot, which changes the token, and return the lock."""
        base = dict(token.value)
        return cls(Task(token).lock(pilot), base)


class Claimer:
    """Locks the tokens of views: those of a later view only while all earlier ones are empty.

    A view with only tokens that wait for their next try counts as empty, but not as the end.

    :param views: the views
    :param recheck_empty: whether empty views are read once more before that counts as the end
    """

    def __init__(self, *views: Candidates, recheck_empty: bool = True) -> None:
        self.views = views
        self.recheck_empty = recheck_empty
        self._unsure: list[Lock] = []  # sent, but the answer was lost
        self._found: list[Task] = []  # those of them that turned out to be ours
        self._strays: list[Stray] = []  # to be withdrawn
        self._backoff = 0.0
        self._failures = 0  # in a row
        self._is_rechecked = False

    def exchange(
        self, client: CouchDB, pilot: str, releases: Sequence[ClaimedToken], wanted: int, ahead: int = 0
    ) -> Exchange:
        """Save tokens that were processed and lock others, in one request if its answer is not lost.

        Each release that was saved is marked as saved. The others still have to be saved, with `ClaimedToken.save`,
        which is more patient. This does not fail if other pilots want the same tokens.

        :param client: the pool
        :param pilot: the id of the pilot that the tokens are locked for
        :param releases: tokens that this pilot holds, in their final state
        :param wanted: the most tokens to lock, for slots that are free
        :param ahead: how many more to lock at most that are to wait for a slot, see `Candidates.take`. If only such
            tokens are wanted, an answer without any does not mean that there are none
        :raises PicasError, couchdb.http.HTTPError: if the database refuses, or is away; never if there are releases
        """
        try:
            self._look_up(client)
            candidates, tokens = self._candidates(client, wanted - len(self._found), ahead)
        except (PicasError, HTTPError) as error:
            if not releases and not self._found:
                raise
            log.debug("No candidates: %s", error)
            if releases:
                self._write(client, releases, [])
            return Exchange(self._take_found(wanted + ahead))  # it is unknown whether there are more
        locks = [Lock.of(token, pilot) for token in tokens]
        locked = self._write(client, releases, locks) if releases or locks else []
        self._try_to_withdraw(client)
        found = self._take_found(wanted + ahead)
        if found or locked:
            self._start_anew()
        if candidates is not None and len(locked) < len(locks):
            self._failures += 1
            candidates.met_others(self._failures)
        if found or locked:
            return Exchange(found + locked)
        if candidates is not None:
            return self._after_conflicts(candidates)
        if not wanted:
            return Exchange()
        if any(not release.is_saved or is_free(release.token) for release in releases):
            # The views were read before these tokens were saved, and some of them are free again, or may be.
            self.look_anew()
        exchange = self._after_emptiness()
        exchange.has_larger = any(view.has_larger for view in self.views)
        return exchange

    def look_anew(self) -> None:
        """Read the views the next time that tokens are wanted, see `Candidates.look_anew`."""
        self._is_rechecked = False
        for view in self.views:
            view.look_anew()

    def settle(self, client: CouchDB) -> list[Task]:
        """Return tokens that were locked by requests whose answers were lost.

        :raises PicasError, couchdb.http.HTTPError: if the database is still away; ask again later then
        """
        self._look_up(client)
        return self._take_found(len(self._found))

    def _take_found(self, wanted: int) -> list[Task]:
        found, self._found = self._found[:wanted], self._found[wanted:]
        return found

    def _look_up(self, client: CouchDB) -> None:
        """Find out what became of locks whose answers were lost."""
        while self._unsure:
            lock = self._unsure[-1]
            token = _find(client, lock)
            self._unsure.pop()
            if token is not None:
                if client.copies > 1:  # nobody knows any more whether a majority has taken it
                    self._strays.append(Stray(token, lock.base))
                else:
                    self._found.append(Task(token))
        self._withdraw(client)

    def _withdraw(self, client: CouchDB) -> None:
        while self._strays:
            withdraw(client, self._strays[-1])
            self._strays.pop()

    def _try_to_withdraw(self, client: CouchDB) -> None:
        """Withdraw strays at once, since nobody else does. If that fails, it is tried again before the next claim."""
        try:
            self._withdraw(client)
        except (PicasError, HTTPError) as error:
            log.warning("%s locks could not be withdrawn yet: %s", len(self._strays), error)

    def _candidates(self, client: CouchDB, wanted: int, ahead: int) -> tuple[Candidates | None, list[Document]]:
        # Only if a token is wanted at once is it known whether a view is empty, so that the next has its turn.
        views = self.views if wanted > 0 else self.views[:1] if wanted + ahead > 0 else ()
        for candidates in views:
            tokens = candidates.take(client, max(wanted, 0), ahead + min(wanted, 0))
            if tokens:
                return candidates, tokens
        return None, []

    def _write(self, client: CouchDB, releases: Sequence[ClaimedToken], locks: Sequence[Lock]) -> list[Task]:
        """Save releases and locks and return the tokens that are ours now."""
        sent = [release for release in releases if _is_storable(release)]
        self._unsure += locks
        try:
            written = client.write_documents([release.token for release in sent] + [lock.token for lock in locks])
        except Exception as error:  # even one that JSON can't hold: a token must not end the pilot
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
                    self._unsure.append(lock)  # another branch may hide it
                continue
            if has_quorum or client.copies == 1:
                ours.append(lock.token)
            else:
                self._strays.append(Stray(lock.token.value, lock.base))
        return ours

    def _start_anew(self) -> None:
        self._backoff = 0.0
        self._failures = 0
        self._is_rechecked = False

    def _after_conflicts(self, candidates: Candidates) -> Exchange:
        self._is_rechecked = False
        # Others take the last tokens while this pilot waits. Each pilot that waits saves the server a reading.
        least = SCARCE_BACKOFF if candidates.are_scarce else FIRST_BACKOFF
        self._backoff = min(max(self._backoff * 2, least), MAX_BACKOFF)
        return Exchange(is_ready=After(random.uniform(0, self._backoff)))

    def _after_emptiness(self) -> Exchange:
        ready_at = min((view.ready_at for view in self.views), default=math.inf)
        wait = max(0.0, ready_at - time.monotonic())
        if wait <= LONGEST_WAIT:
            self._start_anew()
            later = random.uniform(0, min(SPREAD * wait, MAX_SPREAD))
            is_over = not self.recheck_empty  # without it the caller asks again anyway, and waits in its own way
            return Exchange([], is_over, After(min(wait + later, LOOK)), next_at=ready_at + later)
        # The view may lag after conflicts, and somebody may be filling the pool right now.
        if self._is_rechecked or not self.recheck_empty:
            self._start_anew()
            return Exchange(is_over=True, next_at=ready_at)
        self._is_rechecked = True
        return Exchange(is_ready=After(EMPTY_PAUSE + random.uniform(0, self._backoff)))


def _is_storable(release: ClaimedToken) -> bool:
    """Turn a token into a document that the database accepts, and return whether that worked."""
    try:
        release.make_storable()
    except Exception as error:  # code of the values themselves runs
        log.debug("Releasing %s alone: %s", release.id, error)
        return False
    return True


def _find(client: CouchDB, lock: Lock) -> dict[str, Any] | None:
    """Return the token as it is in the database if that has the lock, else None."""
    if client.copies > 1:  # readers see one of the branches
        branches = client.read_branches(lock.token.id)
    else:
        try:
            branches = [client.get(lock.token.id).value]
        except NoSuchDocument:
            return None
    return next((branch for branch in branches if is_same_lock(branch, lock.token)), None)
