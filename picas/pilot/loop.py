"""The loop of a run: lock tokens, put them into slots, save what has ended, go on until there are no more.

With one slot the user's code runs in the thread of the run, with several in a thread for each slot. The slots bring the
tokens into their final state; the thread of the run saves those and locks others, all that have ended by then in one
request. Where a `cleanup_run` or a `stop_function` of the user's is to find each token saved as it ended, each is saved
by itself, in its slot.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from couchdb.http import HTTPError

from ..batch import gpu_environment, gpu_names
from ..couch.outages import is_outage, wait_out
from ..exceptions import PicasError, PilotStopped
from ..iterators import EndlessViewIterator, ViewIterator
from ..pool.claims import Exchange
from ..pool.results import Stage
from ..processes import exposed, set_environment, shielded
from ..tokens.resources import Room
from .attempt import Attempt
from .context import Context
from .slots import MainSlot, Slots, ThreadSlots
from .work import Work

log = logging.getLogger(__name__)

LOOK = 10.0
"""The longest pause between two checks of the conditions while tokens are at work, in seconds."""


class Loop:
    """Keeps the slots of a run filled.

    :param context: the run
    :param is_seen: whether the user's code is to find each token saved as it ended
    """

    def __init__(self, context: Context, is_seen: bool) -> None:
        self.context = context
        self.unsaved: list[Attempt] = []
        """Tokens in their final state that have yet to be saved."""
        self.interrupted: list[Attempt] = []
        """Tokens whose work has not come to its end."""
        self.locked: list[Attempt] = []
        """Tokens that are locked and have not come into a slot yet."""
        self._tokens: Iterator[Any] = iter(context.actor.iterator)
        self._is_seen = is_seen
        self._is_alone = is_seen or self._exchanging() is None  # whether the slots save their tokens themselves
        self._is_closed = False  # no further token is started
        self._is_dry = False  # there was no token for now; one that ends may bring another
        self._is_exhausted = False  # the iterator said that there are no more
        self._last = Exchange()  # the answer to the last request for tokens
        self._failure: BaseException | None = None  # raised once the running tokens have ended
        self._gpus = gpu_names(context.pilot.has.gpus)  # those assigned to no token
        count = context.pilot.slots
        self.slots: Slots[Attempt] = MainSlot(self._work_on) if count == 1 else ThreadSlots(count, self._work_on)
        self._introduce()

    def run(self) -> None:
        """Process tokens until there are no more or a condition is met.

        :raises PilotStopped: if a signal has stopped the run
        :raises PicasError, couchdb.http.HTTPError: if the database stays away, or refuses the pilot
        """
        context = self.context
        while True:
            if context.is_stopping():
                raise PilotStopped(context.options.stop_exit_code)
            self._is_closed |= context.matcher.is_late or self._is_iterator_stopped()
            wanted = self._wanted()
            if wanted or self.unsaved:
                self._exchange(wanted)
            if not self.slots.running and (self._is_closed or self._is_dry):
                break
            for attempt in self.collect(LOOK):
                if attempt.interruption is not None:
                    raise attempt.interruption
                self._note_end(attempt)
        context.matcher.explain_end()
        if self._is_exhausted and context.pilot.slots == 1 and isinstance(self._tokens, ViewIterator):
            self._tokens.stop()  # as in picas 1.1; with several slots, the next run goes on without a reset
        if self._failure is not None:
            raise self._failure

    def collect(self, seconds: float) -> list[Attempt]:
        """Take the tokens that have ended out of their slots and return them.

        :param seconds: how long to wait for the first, unless there is something else to do
        """
        ended = self.slots.collect(seconds, self._has_other_task)
        for attempt in ended:
            if attempt.interruption is not None:
                self.interrupted.append(attempt)
            elif not self._is_alone:
                self.context.retries.apply(attempt.token)
                self.unsaved.append(attempt)
        return ended

    def save(self) -> None:
        """Save all tokens that are in their final state."""
        self._exchange(0)

    def held(self) -> list[Attempt]:
        """Return the tokens that this pilot holds and has not finished."""
        return [*self.locked, *self.slots.running]

    def room(self) -> Room:
        """Return what is left of the pilot for further tokens."""
        pilot = self.context.pilot
        return Room.of(pilot.slots, pilot.has, [attempt.needs for attempt in list(self.slots.running)])

    def close(self) -> None:
        """Let the slots end, and the iterator wait no longer."""
        self.slots.close()
        set_environment({})  # the GPUs of the last token, if this thread was its slot
        if isinstance(self._tokens, EndlessViewIterator):
            EndlessViewIterator.rest(self._tokens)

    # --- what is asked of the iterator

    def _introduce(self) -> None:
        """Set the pilot for which the iterator locks tokens, and what fits it."""
        tokens, matcher = self._tokens, self.context.matcher
        if isinstance(tokens, EndlessViewIterator):
            tokens.deadline = None if matcher.last_start == math.inf else matcher.last_start
        if isinstance(tokens, ViewIterator):
            tokens.pilot, tokens.fits = self.context.pilot.id, matcher.fits

    def _is_iterator_stopped(self) -> bool:
        return isinstance(self._tokens, ViewIterator) and self._tokens.is_stopped()

    def _exchanging(self) -> ViewIterator | None:
        """Return the iterator if it can save tokens in the request that locks others, else None."""
        tokens = self._tokens
        return tokens if isinstance(tokens, ViewIterator) and tokens.can_exchange(self.context.actor.db) else None

    def _wanted(self) -> int:
        """Return how many tokens are to be locked now."""
        if self._is_closed or self._is_dry or not self._last.is_ready():
            return 0
        left = self.context.conditions.tokens_left - len(self.slots.running)
        return math.ceil(max(0, min(self.room().slots, left)))  # a script may compute max_tasks by a division

    def _exchange(self, wanted: int) -> None:
        """Save what has ended, lock other tokens and put them into slots."""
        unsaved, self.unsaved = self.unsaved, []
        tokens = self._exchanging()
        if isinstance(self._tokens, ViewIterator):
            self._tokens.room = self.room() if self.context.pilot.slots > 1 else None
        if tokens is not None and unsaved and (wanted or len(unsaved) > 1):
            exchange = tokens.exchange(unsaved, wanted)
        else:
            self._save_alone(unsaved)
            exchange = self._ask(wanted) if wanted else Exchange()
        self.locked = [Attempt(token, self.context.values.of_run) for token in exchange.locked]
        self._save_alone(unsaved)
        if wanted:
            self._take_note(exchange)
        while self.locked:
            self._start(self.locked[0])

    def _take_note(self, exchange: Exchange) -> None:
        """Decide from an answer when, and whether, to ask for tokens again."""
        waits_too_long = exchange.next_at > self.context.matcher.last_start
        if waits_too_long and not exchange.is_over:
            log.info("No further token: those that are left wait for their next try, for longer than this run")
        self._is_exhausted = exchange.is_over
        self._is_dry = exchange.is_over or waits_too_long
        self._last = Exchange() if exchange.locked or self._is_dry else exchange

    def _ask(self, wanted: int) -> Exchange:
        """Lock tokens; none while the database is away and there is something else to do."""
        if not isinstance(self._tokens, ViewIterator):
            locked = [token for token in islice(self._tokens, 1) if token is not None]
            return Exchange(locked, is_over=not locked)
        tokens, exchanging = self._tokens, self._exchanging()

        def request() -> Exchange:
            if exchanging is not None:
                return exchanging.exchange([], wanted)
            # Not `tokens.poll()`: an iterator of a script's own may use that name for something else.
            if isinstance(tokens, EndlessViewIterator):
                return EndlessViewIterator.poll(tokens)
            return ViewIterator.poll(tokens)

        try:
            return wait_out(request, self.context.options.max_outage, self._is_needed_elsewhere)
        except (PicasError, HTTPError) as error:
            if is_outage(error) and self._is_needed_elsewhere():
                if self.context.is_over():
                    log.warning("The run is over while the database is away: %s", error)
                return Exchange()
            if not self.slots.running:
                raise
            self._failure, self._is_closed = error, True  # the running tokens are to end first
            return Exchange()

    def _is_needed_elsewhere(self) -> bool:
        return self.context.is_over() or self.slots.has_ended()

    def _has_other_task(self) -> bool:
        """Return whether there is something to do but to wait for tokens to end."""
        if self.context.is_stopping():
            return True
        if self._is_closed:
            return False
        return self.context.matcher.is_late or self._is_iterator_stopped() or self._wanted() > 0

    # --- slots

    def _start(self, attempt: Attempt) -> None:
        """Put a token that was just locked into a slot, or back into the pool if it does not fit."""
        context, token = self.context, attempt.token
        context.actor.current_task = token
        if "exit_code" in token:
            token["exit_code"] = ""  # that of an earlier attempt means nothing for this one
        # An iterator may not ask what fits; and a lock may be found only now, whose answer was lost.
        has_room = self.room().fits(attempt.needs)
        if has_room and context.matcher.fits(token):
            attempt.gpus = [self._gpus.pop(0) for _ in range(attempt.needs.gpus)]
            self.locked.remove(attempt)
            self.slots.start(attempt)
            return
        context.count(attempt.put_back(context.actor.token_reset_values), is_processed=False)
        Work(context, attempt).save()
        self.locked.remove(attempt)
        if self._exchanging() is None:
            # It does not ask what fits and may give the same token again. That fits later if it only lacks room.
            self._is_dry = True
            self._is_closed |= has_room or not context.pilot.has.cover(attempt.needs)

    def _work_on(self, attempt: Attempt) -> None:
        """Process a token in a slot; called in the slot's thread."""
        if isinstance(self.slots, ThreadSlots):
            attempt.thread = threading.get_ident()
            attempt.values = self.context.values.enter_slot(attempt.token)
        set_environment(gpu_environment(attempt.gpus))
        work = Work(self.context, attempt)
        with shielded():
            try:
                work.process()
                if self._is_alone:
                    work.finish(self._is_seen)
            except BaseException as error:  # the thread of the run decides what follows
                attempt.interruption = error

    def _note_end(self, attempt: Attempt) -> None:
        self._gpus += attempt.gpus
        self._is_dry = False
        if self._last.has_larger:  # there may be room for one of them now
            self._last = Exchange()
        conditions = self.context.conditions
        conditions.processed += 1
        self.context.actor.current_task = attempt.token
        with exposed():
            self._is_closed |= conditions.are_met()
        if not self._is_closed:
            self.context.actor.current_task = None

    def _save_alone(self, attempts: Iterable[Attempt]) -> None:
        """Save tokens one by one that could not be saved together; they share the time to wait for the database."""
        give_up = time.monotonic() + self.context.options.max_outage
        for attempt in attempts:
            if attempt.stage is Stage.CONCLUDED:
                Work(self.context, attempt).save(max(0.0, give_up - time.monotonic()))
