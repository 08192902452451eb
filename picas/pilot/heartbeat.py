"""A pilot's heartbeat: a document of its own, saved again and again while the pilot lives.

Each save gives the document a new revision. Other pilots see by that alone that this one lives (see `leases`), so that
no clocks are compared. The document is there before the first token is locked, and goes when the pilot ends, unless
something of the pilot's was left behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
from typing import Any, Callable

from couchdb.http import HTTPError, ResourceConflict

from ..clients import CouchDB
from ..config import duration
from ..couch.connections import explain
from ..exceptions import PicasError, SettingsError
from .identity import DEAD, RUNNING, TYPE, Pilot
from .leases import LEASE, Watch

log = logging.getLogger(__name__)

HEARTBEAT = 60.0
"""Seconds between two saves of a pilot's document at the most."""
LEAST_LEASE = 0.1
BEATS_PER_LEASE = 3
"""What a lease lasts at the least: in seconds, and in heartbeats, since some may meet a bad network."""
RETRY = 10.0
"""Seconds until a save that failed is tried again."""
CHECKS = 3
"""After how many saves a pilot that was taken for dead looks whether its tokens are still its own: those who put them
back may be at it just then."""
PATIENCE = 2.0
"""Seconds that the end of a run waits for a save that is under way."""


def lifetimes(heartbeat: float | None, lease: float | None) -> tuple[float, float]:
    """Return the seconds between two heartbeats, and the lease.

    :param heartbeat: the first, None for what the environment says, or a default
    :param lease: the second, likewise
    :raises SettingsError: if they make no sense, alone or together
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


class Heartbeat:
    """Keeps a pilot's document up to date, and looks after the tokens of pilots that do so no more.

    :param client: the pool; nobody else uses this client, and what fails is not tried again by it
    :param pilot: the pilot
    :param interval: seconds between two saves
    :param watch: what looks at the other pilots
    :param work: returns what the pilot works on, as fields for the document
    :param on_return: is called when the pilot was taken for dead, so that its tokens may be another's
    """

    def __init__(
        self,
        client: CouchDB,
        pilot: Pilot,
        interval: float,
        watch: Watch,
        work: Callable[[], dict[str, Any]],
        on_return: Callable[[], None],
    ) -> None:
        self._client = client
        self._pilot = pilot
        self._interval = interval
        self._watch = watch
        self._work = work
        self._on_return = on_return
        self._rev: str | None = None
        self._beats = 0
        self._checks = 0  # still to be made
        self._is_troubled = False
        self._next_beat = self._next_look = 0.0  # on the clock of time.monotonic
        self._has_ended = threading.Event()  # no signal handler touches it
        self._thread: threading.Thread | None = None

    def save_first(self) -> None:
        """Save the document for the first time.

        :raises PicasError, couchdb.http.HTTPError: if the database is away, or refuses it
        """
        self._save()
        self._next_beat = time.monotonic() + self._pause()
        self._next_look = time.monotonic() + random.uniform(0.2, 1) * self._watch.interval

    def begin(self) -> None:
        """Go on in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="picas-heartbeat", daemon=True)
        self._thread.start()

    def end(self, is_clean: bool) -> None:
        """End. The document is deleted, unless the pilot has left something behind: then others are to see it dead."""
        self._has_ended.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)
        if is_clean and self._rev is not None:
            with contextlib.suppress(PicasError, HTTPError):  # others will take care of it
                self._delete()

    def step(self) -> float:
        """Do what is due, and return the seconds until something is due again."""
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + (self._pause() if self._beat() else min(RETRY, self._interval))
        if now >= self._next_look and not self._is_troubled:
            self._next_look = now + self._watch.look() * random.uniform(0.75, 1.25)
        return max(min(self._next_beat, self._next_look) - time.monotonic(), 0.0)

    def _run(self) -> None:
        while True:
            try:
                pause = self.step()
            except (PicasError, HTTPError) as error:
                log.info("The other pilots could not be looked at: %s", explain(error))
                self._next_look = time.monotonic() + self._watch.interval
                pause = RETRY
            except Exception:  # of whatever kind: without its heartbeat the pilot would lose its tokens
                log.exception("The heartbeat met an error of its own")
                pause = RETRY
            if self._has_ended.wait(min(pause, self._interval)):
                return

    def _pause(self) -> float:
        return self._interval * random.uniform(0.9, 1)  # pilots that started together are not to save in step

    def _beat(self) -> bool:
        """Save the document and return whether that worked."""
        try:
            self._save()
        except (PicasError, HTTPError) as error:
            log.log(logging.DEBUG if self._is_troubled else logging.WARNING, "No heartbeat: %s", explain(error))
            self._is_troubled = True
            return False
        self._is_troubled = False
        if self._checks > 0:
            self._on_return()
            self._checks -= 1
        return True

    def _save(self) -> None:
        self._beats += 1
        content = {
            "_id": self._pilot.id,
            "type": TYPE,
            "state": RUNNING,
            **{name: value for name, value in self._pilot.describe().items() if name != "id"},
            **self._work(),
            "heartbeat": self._interval,
            "lease": self._watch.lease,
            "beat": self._beats,
        }
        try:
            self._put(content)
        except ResourceConflict:
            self._find_own()
            self._put(content)

    def _put(self, content: dict[str, Any]) -> None:
        known = {} if self._rev is None else {"_rev": self._rev}
        self._rev = self._client.save({**content, **known})["_rev"]

    def _find_own(self) -> None:
        """Find out what others have made of the document."""
        try:
            stored = self._client.get(self._pilot.id).value
        except ValueError:
            stored = {"_rev": None, "state": DEAD}  # deleted, so it was taken for dead
        self._rev = stored["_rev"]
        if stored.get("state") == DEAD:
            log.warning(
                "This pilot, %s, was taken for dead: looking whether its tokens are still its own", self._pilot.id
            )
            self._checks = CHECKS

    def _delete(self) -> None:
        try:
            self._client.delete({"_id": self._pilot.id, "_rev": self._rev})
        except ResourceConflict:
            self._find_own()
            if self._rev is not None:
                self._client.delete({"_id": self._pilot.id, "_rev": self._rev})
