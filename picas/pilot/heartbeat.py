"""A pilot's heartbeat: a document of its own that is saved again and again while the pilot is alive.

Each save gives the document a new revision. That alone shows other pilots that this one is alive (see `leases`), so no
clocks are compared. The document is saved before the first token is locked. It is deleted when the pilot ends, unless
the pilot has left a token locked.

People change the document to give the pilot orders (see `orders`): its next save meets the conflict.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import threading
import time
from dataclasses import asdict
from typing import Any

from couchdb.http import HTTPError, ResourceConflict

from ..clients import CouchDB
from ..config import duration
from ..couch import explain
from ..couch.outages import is_outage
from ..exceptions import NoSuchDocument, PicasError, SettingsError
from ..picaslogger import get_logger
from ..processes import start_thread
from ..util import seconds
from .cancelling import cancel_put_back
from .ended import ended_document, prune
from .identity import DEAD, RUNNING, TYPE, Pilot
from .leases import LEASE, Watch
from .mailbox import CANCEL, FIELD, PAUSE, Orders, entries_in, orders_in
from .orders import as_pause, find_pause
from .rescue import restore_recursion_limit

log = get_logger(__name__)

HEARTBEAT = 60.0
"""The time between two saves of a pilot's document, in seconds, unless the pool has many pilots."""
SECONDS_PER_PILOT = 0.1
"""The shortest time between two saves, in seconds for each pilot of the pool: 1,000 pilots save 10 times a second."""
SECOND_BEAT = (3.0, 15.0)
"""The first save comes before the first token: another one in this time, in seconds, says how many slots are busy."""
MAX_CONFLICTS = 10
"""How often a save meets a change of the document by somebody else before it waits for the next heartbeat."""
LEAST_LEASE = 0.1
"""The shortest lease, in seconds."""
BEATS_PER_LEASE = 3
"""The fewest heartbeats in a lease: some may fail in a bad network."""
RETRY = 10.0
"""Seconds after which a save that failed is tried again."""
PATIENCE = 2.0
"""Seconds that the end of a run waits for a save in progress."""


def lifetimes(heartbeat: float | None, lease: float | None) -> tuple[float, float]:
    """Return the seconds between two heartbeats, and the lease.

    :param heartbeat: seconds between two heartbeats, None for the value in the environment or the default
    :param lease: seconds without a heartbeat after which a pilot counts as dead, None likewise
    :raises SettingsError: if one of them is invalid, or if they do not go together
    """
    interval = duration(heartbeat, "PICAS_HEARTBEAT", HEARTBEAT, least=LEAST_LEASE / BEATS_PER_LEASE)
    period = duration(lease, "PICAS_LEASE", max(LEASE, BEATS_PER_LEASE * interval), least=LEAST_LEASE)
    if heartbeat is None and "PICAS_HEARTBEAT" not in os.environ:
        interval = min(interval, period / BEATS_PER_LEASE)
    if period < BEATS_PER_LEASE * interval:
        raise SettingsError(
            f"the lease (PICAS_LEASE, {period:g} s) must be at least {BEATS_PER_LEASE} times the time between two "
            f"heartbeats (PICAS_HEARTBEAT, {interval:g} s)"
        )
    return interval, period


class Duties:
    """What a heartbeat does for a run beside its saves; here nothing. See `duties.RunDuties`."""

    @property
    def longest_pause(self) -> float:
        """The longest time until the next save, in seconds."""
        return math.inf

    def describe(self) -> dict[str, Any]:
        """Return what the pilot works on, as fields of its document."""
        return {}

    def check(self) -> None:
        """Check the tokens at work: other pilots may have marked this one as dead and put them back, and people may
        have changed them. Called after each save."""

    def obey(self, orders: Orders) -> Orders:
        """Do what people want, and return the orders that stand.

        :param orders: those in the pilot's document
        """
        return orders


class Heartbeat:
    """Saves a pilot's document at intervals, and looks at the other pilots, in a thread of its own.

    :param client: the pool; a client that only this uses, and that does not repeat requests
    :param pilot: the pilot
    :param interval: seconds between two saves
    :param watch: looks at the other pilots
    :param duties: what it does for the run
    """

    def __init__(
        self, client: CouchDB, pilot: Pilot, interval: float, watch: Watch, duties: Duties | None = None
    ) -> None:
        self._client = client
        self._pilot = pilot
        self._interval = interval
        self._watch = watch
        self._duties = duties or Duties()
        self._orders: Orders = {}  # those in the document, as far as they stand
        self._rev: str | None = None
        self._beats = 0
        self._is_troubled = False
        self._next_beat = self._next_look = 0.0  # on the clock of time.monotonic
        self._last_beat = time.monotonic()  # when the last was saved
        self._has_ended = threading.Event()  # no signal handler uses it, since it has a lock
        self._thread: threading.Thread | None = None

    def save_first(self) -> None:
        """Save the document for the first time, and find out whether the pool is paused.

        :raises PicasError, couchdb.http.HTTPError: if the database is away, or refuses it
        """
        self._save()
        self._heed_pause()
        self._next_beat = time.monotonic() + min(random.uniform(*SECOND_BEAT), self._pause())
        self._next_look = time.monotonic() + random.uniform(0.2, 1) * self._watch.interval

    def begin(self) -> None:
        """Start the thread.

        :raises NodeFault: if there can be no further thread
        """
        thread = threading.Thread(target=self._run, name="picas-heartbeat", daemon=True)
        start_thread(thread)
        self._thread = thread

    def end(self, is_clean: bool) -> None:
        """End the thread.

        :param is_clean: whether the pilot has left no token locked. Then its document is deleted; otherwise other
            pilots will find it dead.
        """
        self._has_ended.set()
        self._client.hurry()
        if self._thread is not None:
            self._thread.join(PATIENCE)
        if is_clean and self._rev is not None:
            with contextlib.suppress(PicasError, HTTPError):  # other pilots will deal with it
                self._leave()

    def silence(self, pilot: str) -> float:
        """See `leases.Watch.silence`."""
        return self._watch.silence(pilot)

    def step(self) -> float:
        """Save the document and look at the other pilots if it is time, and return the seconds until it is time
        again."""
        now = time.monotonic()
        if now >= self._next_beat:
            is_saved = self._beat()
            pause = self._pause() if is_saved else min(RETRY, self._interval, self._duties.longest_pause)
            self._next_beat = now + pause
        if now >= self._next_look and not self._is_troubled:
            self._next_look = now + self._watch.look() * random.uniform(0.75, 1.25)
        return max(min(self._next_beat, self._next_look) - time.monotonic(), 0.0)

    def _run(self) -> None:
        pause = 0.0
        while not self._has_ended.wait(min(pause, self._interval)):
            pause = RETRY
            try:
                pause = self.step()
            except (PicasError, HTTPError) as error:
                log.info("Could not look at the other pilots: %s", explain(error))
                self._next_look = time.monotonic() + self._watch.interval
            except BaseException:  # whatever it is: without its heartbeat the pilot would lose its tokens
                restore_recursion_limit()  # user code may need long until it comes back
                log.exception("An error in the heartbeat")

    @property
    def _usual_pause(self) -> float:
        """The time between two heartbeats: longer in a pool with many pilots, but at least three in a lease."""
        in_crowd = min(SECONDS_PER_PILOT * self._watch.pilots, self._watch.lease / BEATS_PER_LEASE)
        return max(self._interval, in_crowd)

    def _pause(self) -> float:
        # Pilots that started together should not save in step.
        return min(self._usual_pause * random.uniform(0.9, 1), self._duties.longest_pause)

    def _beat(self) -> bool:
        """Save the document and return whether that worked."""
        try:
            self._save()
        except (PicasError, HTTPError) as error:
            log.log(logging.DEBUG if self._is_troubled else logging.WARNING, "No heartbeat: %s", explain(error))
            self._is_troubled = True
            if not is_outage(error) and time.monotonic() - self._last_beat > self._watch.lease:
                self._duties.check()  # only this pilot is refused: the others, who see it as dead, take its tokens
            return False
        self._is_troubled = False
        self._duties.check()
        return True

    def _save(self) -> None:
        self._beats += 1
        if set(self._orders) - {PAUSE}:  # one may be waiting for the run
            self._orders = self._duties.obey(self._orders)
        was_dead = False
        for _ in range(MAX_CONFLICTS):
            try:
                self._put()
            except ResourceConflict:
                if self._has_ended.is_set():
                    return  # the document was just deleted
                was_dead |= self._read_own()
                continue
            if was_dead:  # who has paused the pool meanwhile has not asked this pilot
                self._heed_pause()
            return
        self._put()

    def _put(self) -> None:
        content = {
            "_id": self._pilot.id,
            "type": TYPE,
            "state": RUNNING,
            **{name: value for name, value in self._pilot.describe().items() if name != "id"},
            **self._duties.describe(),
            FIELD: self._orders,
            "heartbeat": round(self._usual_pause, 1) if self._usual_pause > self._interval else self._interval,
            "lease": self._watch.lease,
            "beat": self._beats,
            "saved": seconds(),
        }
        known = {} if self._rev is None else {"_rev": self._rev}
        self._rev = self._client.save({**content, **known})["_rev"]
        self._last_beat = time.monotonic()

    def _read_own(self) -> bool:
        """Read the document, which others have changed, obey the orders in it, and return whether it is marked as
        dead."""
        try:
            stored = self._client.get(self._pilot.id).value
        except NoSuchDocument:  # deleted, so it was marked as dead
            stored = {"_rev": None, "state": DEAD, FIELD: self._orders}
        self._rev = stored["_rev"]
        self._orders = self._duties.obey(orders_in(stored))
        if stored.get("state") != DEAD:
            return False
        log.warning("This pilot, %s, was marked as dead: checking that its tokens are still its own", self._pilot.id)
        return True

    def _heed_pause(self) -> None:
        """Take over the pause in the document of the pool, where this pilot may not have been asked.

        It is read again after each save: who resumes the pool meanwhile may not have seen this pilot's document with
        the pause.
        """
        while True:
            pause = find_pause(self._client)
            if pause == as_pause(self._orders.get(PAUSE)):
                return
            orders = {kind: order for kind, order in self._orders.items() if kind != PAUSE}
            self._orders = self._duties.obey(orders if pause is None else {**orders, PAUSE: asdict(pause)})
            self._save()

    def _leave(self) -> None:
        """Delete the document, and keep another one for people in the same request."""
        self._cancel_put_back(self._orders)
        own = {"_id": self._pilot.id, "_rev": self._rev}
        ended = ended_document(self._pilot)
        if ended is None:
            self._delete(own)
            return
        if self._client.write_documents([{**own, "_deleted": True}, ended]).revs[0] is None:
            self._delete(own)
        prune(self._client)

    def _cancel_put_back(self, orders: Orders) -> None:
        """Cancel the tokens that were put back by the end of the run before the orders were obeyed."""
        entries = entries_in(orders, CANCEL)
        if entries:
            cancel_put_back(self._client, entries, is_holder=True)

    def _delete(self, own: dict[str, Any]) -> None:
        """Delete the document, though others may have changed it: the pilot has ended, whatever they want of it."""
        for _ in range(MAX_CONFLICTS):
            try:
                self._client.delete(own)
            except ResourceConflict:
                try:
                    own = self._client.get(self._pilot.id).value
                except NoSuchDocument:
                    return
                self._cancel_put_back(orders_in(own))
                continue
            return
