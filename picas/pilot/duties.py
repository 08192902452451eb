"""What a heartbeat does for its run: describes the work, finds tokens that were taken away, obeys orders."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from typing import Any, Callable

from couchdb.http import HTTPError

from .. import modifiers
from ..exceptions import NoSuchDocument, PicasError, TokenCancelled, TokenLost
from ..iterators import ViewIterator
from ..picaslogger import get_logger
from ..pool import Stage
from ..processes import OutputTails, output_tails
from ..tokens.states import is_in_state
from ..util import one_line
from .attempt import Attempt, describe_loss
from .cancelling import cancel_put_back, reason_of_cancel
from .context import Context
from .heartbeat import Duties
from .loop import Loop
from .mailbox import CANCEL, DRAIN, PAUSE, WATCH, Orders, entries_in
from .orders import as_pause
from .watching import MAX_WATCHED, WATCH_PAUSE, WATCH_TIME, WATCHED, Output, describe_output, tail_length
from .work import Work

log = get_logger(__name__)


class _Shown:
    """A token whose output is shown for a while."""

    def __init__(self) -> None:
        self.until = 0.0
        self._attempt: Attempt | None = None
        self._tails = OutputTails(0, None, None)

    def look(self, attempt: Attempt, thread: int, count: int) -> dict[str, Any]:
        """Return what goes into the pilot's document.

        :param attempt: the attempt at the token
        :param thread: the identifier of the thread in which that is made
        :param count: how many bytes to show of each output
        """
        if attempt is not self._attempt:
            self._attempt, self._tails = attempt, OutputTails(0, None, None)
        # Tokens wait before and after their work, while the program of another one may run in the thread.
        if _is_at_work(attempt):
            tails = output_tails(thread, count)
            if tails is not None and _is_at_work(attempt):  # else no program runs now: what the last has printed stays
                self._tails = tails
        stdout, stderr = map(_described, (self._tails.stdout, self._tails.stderr))
        claim = modifiers.claim_of(attempt.claimed).get("id")
        return {"claim": claim, "program": self._tails.number, "stdout": stdout, "stderr": stderr}


def _described(tail: tuple[int, bytes] | None) -> dict[str, Any] | None:
    return None if tail is None else describe_output(Output(*tail))


def _is_at_work(attempt: Attempt) -> bool:
    """Return whether the user's code works on a token."""
    return attempt.began is not None and attempt.worked is None


class RunDuties(Duties):
    """The duties of a heartbeat for a run; all of this is called in the heartbeat's thread.

    :param context: the run
    :param loop: returns its loop, None before it begins and after it has ended
    """

    def __init__(self, context: Context, loop: Callable[[], Loop | None]) -> None:
        self._context = context
        self._loop = loop
        self._shown: dict[str, _Shown] = {}

    @property
    def longest_pause(self) -> float:
        """See `Duties.longest_pause`."""
        return WATCH_PAUSE if self._shown else math.inf

    def describe(self) -> dict[str, Any]:
        """Return what this pilot works on, as fields of its document."""
        held = self._held()
        loop, context = self._loop(), self._context
        free = context.pilot.slots if loop is None else max(0, loop.room().slots)
        work = {"holds": [attempt.id for attempt in held], "free": 0 if context.is_draining else free}
        shown = self._look_at_outputs(held)
        return {**work, WATCHED: shown} if shown else work

    def check(self) -> None:
        """Stop the work on tokens that somebody else has taken, or changed.

        :raises PicasError, couchdb.http.HTTPError: if the database is away
        """
        client = self._context.actor.db
        held = [each for each in self._held() if _is_at_stake(each)]
        rows = client.all_docs(keys=[attempt.id for attempt in held]) if held else []
        revs = [row.get("value", {}).get("rev") for row in rows]
        for attempt in [each for each, rev in zip(held, revs) if rev != each.claimed.get("_rev")]:
            stored = self._read(attempt.id)
            # Code may close and save its token itself, before it returns.
            is_left_alone = is_in_state(stored, "locked") or stored.get("done") == attempt.token.get("done")
            if is_left_alone and modifiers.is_same_lock(stored, attempt.claimed):
                continue
            attempt.loss = describe_loss(stored, self._context.pilot.id)
            if attempt.advance(Stage.LOST):
                log.warning("Token %s was taken from this pilot: %s. The work on it is ended", attempt.id, attempt.loss)
                self._stop_work(attempt, TokenLost)

    def obey(self, orders: Orders) -> Orders:
        """Do what people want, and return the orders that stand.

        :param orders: the orders in the pilot's document
        """
        self._heed_pause(orders)
        self._heed_drain(orders)
        for id in entries_in(orders, WATCH):
            shown = self._shown.pop(id) if id in self._shown else _Shown()
            shown.until = time.monotonic() + WATCH_TIME
            self._shown[id] = shown  # the latest is the last
        for id in list(self._shown)[:-MAX_WATCHED]:
            del self._shown[id]
        standing = {kind: orders[kind] for kind in (PAUSE, DRAIN) if kind in orders}
        pending = self._cancel(entries_in(orders, CANCEL))
        return {**standing, CANCEL: pending} if pending else standing

    def _held(self) -> list[Attempt]:
        loop = self._loop()
        return [] if loop is None else loop.held()

    def _read(self, id: str) -> dict[str, Any]:
        """Return the content of a token, an empty dict if there is none."""
        try:
            content: dict[str, Any] = self._context.actor.db.get(id).value
        except NoSuchDocument:
            return {}
        return content

    def _heed_pause(self, orders: Orders) -> None:
        context, pause = self._context, as_pause(orders.get(PAUSE))
        if pause is not None and not context.is_paused:
            log.warning("The pool is %s. No further token is locked until it is resumed", pause)
        elif pause is None and context.is_paused:
            log.warning("The pool is resumed")
        context.is_paused = pause is not None

    def _heed_drain(self, orders: Orders) -> None:
        context = self._context
        if context.is_draining or not isinstance(orders.get(DRAIN), dict):
            return
        by, message = (one_line(orders[DRAIN].get(field) or "") for field in ("by", "message"))
        log.warning(
            "Drained by %s%s: this pilot ends once its tokens have ended", by or "somebody", message and f": {message}"
        )
        context.is_draining = True
        iterator = context.actor.iterator
        while isinstance(iterator, ViewIterator):  # one of a script's own may wait for tokens, see `poll`
            ViewIterator.stop(iterator)
            iterator = getattr(iterator, "iterator", None)

    def _cancel(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """End the work on tokens, and return the orders that are still to be obeyed."""
        held = {attempt.id: attempt for attempt in self._held()} if entries else {}
        others = {}
        for id, order in entries.items():
            if not isinstance(order, dict):
                continue
            attempt = held.get(id)
            if attempt is None or modifiers.claim_of(attempt.claimed).get("id") != order.get("claim"):
                others[id] = order
                continue
            attempt.cancellation = attempt.cancellation or reason_of_cancel(order)
            if attempt.advance(Stage.CANCELLED):
                log.warning("Token %s is %s. The work on it is ended", id, attempt.cancellation)
                self._stop_work(attempt, TokenCancelled)
            elif not attempt.is_over:
                others[id] = order  # it may have failed, or was given back, and is about to be saved as free
        try:  # the run may also have locked one without knowing so yet: the answer may be on its way
            return cancel_put_back(self._context.actor.db, others, is_holder=True) if others else {}
        except (PicasError, HTTPError):
            return others  # the next heartbeat asks again

    def _stop_work(self, attempt: Attempt, kind: type[BaseException]) -> None:
        if attempt.began is None:
            return  # it waits for its slot, which will see it
        work = Work(self._context, attempt)
        threading.Thread(target=work.stop, args=(kind,), name="picas-lost", daemon=True).start()

    def _look_at_outputs(self, held: list[Attempt]) -> dict[str, Any]:
        """Return what goes into the document of the tokens that people watch, and forget those that are over."""
        if not self._shown:
            return {}
        now, found = time.monotonic(), {attempt.id: attempt for attempt in held}
        self._shown = {id: shown for id, shown in self._shown.items() if id in found and now < shown.until}
        count = tail_length(len(self._shown))
        return {
            id: shown.look(found[id], found[id].thread or self._context.thread, count)
            for id, shown in self._shown.items()
        }


def _is_at_stake(attempt: Attempt) -> bool:
    """Return whether there is work to end if somebody else has the token; a save finds that out by itself."""
    return not attempt.is_concluded and attempt.stage is not Stage.LOST
