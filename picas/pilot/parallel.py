"""Work on several tokens at a time, in slots: each in a thread of its own, saved and locked together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from subprocess import Popen
from typing import Any

from couchdb.http import HTTPError

from ..batch.grants import gpu_environment, gpu_names
from ..couch.outages import is_outage, wait_out
from ..exceptions import PicasError, PilotStopped
from ..iterators import ViewIterator
from ..pool.claims import Exchange
from ..processes import KILL_WAIT, set_environment
from ..processes.interrupts import RETRY, SETTLE, exposed, shielded
from ..tokens.resources import Room, needs_of
from ..util import wait_until
from .attempts import Attempt
from .conditions import StopConditions
from .slots import Slots
from .work import Worker

log = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds after which a run that waits for its tokens looks at its conditions again at the latest."""

OBEDIENCE = 1.0
"""Seconds that children have to end before the code that may be waiting for them is interrupted."""


class ParallelWorker(Worker):
    """Works on several tokens at a time.

    The threads of the slots run the user's code and bring the tokens into their final state. The thread of the run
    saves those, and locks others: all that have ended by then in one request.
    """

    _slots: Slots[Attempt] | None = None

    def _at_work(self) -> list[Attempt]:
        slots = self._slots
        return super()._at_work() if slots is None else list(slots.running)

    def _free_slots(self) -> int:
        return self._room().slots

    def _room(self) -> Room:
        """Return what is left for further tokens."""
        return Room.of(self.pilot.slots, self.pilot.has, [attempt.needs for attempt in self._at_work()])

    def _work_in_slots(self, conditions: StopConditions, count: int) -> None:
        tokens = self._begin(conditions)
        is_alone = self._exchanging(tokens, conditions) is None
        self._slots = slots = Slots[Attempt](count, partial(self._work_on, conditions, is_alone))
        shift = _Shift(self, conditions, slots, tokens, is_alone)
        try:
            shift.run()
        except BaseException:
            self._break_off(shift)
            raise
        finally:
            self._slots = None
            slots.close()
            if isinstance(tokens, ViewIterator):
                tokens.rest()

    def _work_on(self, conditions: StopConditions, is_alone: bool, attempt: Attempt) -> None:
        """Process a token in a slot.

        :param is_alone: whether the token is saved by itself
        """
        attempt.values = self._values_of_slot.values = {"current_task": attempt.token}
        attempt.thread = threading.get_ident()
        set_environment(gpu_environment(attempt.gpus))
        with shielded():
            try:
                self._process(attempt, conditions)
                if is_alone:
                    self._finish(attempt, conditions)
            except BaseException as error:  # the thread of the run decides
                attempt.interruption = error

    def _break_off(self, shift: _Shift) -> None:
        """End the work in all slots and put its tokens back, those that are finished excepted."""
        running = list(shift.slots.running)
        for attempt in running:
            attempt.is_interrupted = True
        children = self._children_of(running)
        ending = threading.Thread(target=self._end_children, args=(children,), name="picas-stop", daemon=True)
        ending.start()
        if children:
            wait_until(lambda: not ending.is_alive(), OBEDIENCE)
            shift.take_out(shift.slots.collect(RETRY))
        self._interrupt(shift.slots.running)
        wait_until(lambda: not ending.is_alive(), self.grace + KILL_WAIT)
        # A batch system that has said stop kills the pilot soon, while code in a slot may be in a long system call.
        give_up = time.monotonic() + SETTLE
        while shift.slots.running and time.monotonic() < give_up:
            shift.take_out(shift.slots.collect(RETRY))
            # A child may have been in the making just now, and code may go on to start the next.
            self._end_children(self._children_of(shift.slots.running))
            self._interrupt(shift.slots.running)
        left = list(shift.slots.running)
        if left:
            log.warning("%s tokens are put back though their code has not ended", len(left))
        for attempt in [*shift.broken_off, *left]:
            # If it is concluded, what was broken off is the cleaning up after it.
            if not attempt.is_concluded and self._wind_up(attempt, shift.conditions):
                shift.pending.append(attempt)
        shift.save()

    def _interrupt(self, attempts: Iterable[Attempt]) -> None:
        """Interrupt the code in slots, again and again until it is left.

        Code that waits for a child comes back when that has ended, and is left alone as long.
        """
        patience = self.grace + KILL_WAIT + SETTLE  # seconds
        for attempt in attempts:
            limit = attempt.limit
            if limit is not None and not attempt.is_broken_off:
                attempt.is_broken_off = True
                breaking = partial(limit.break_off, PilotStopped, patience, partial(self._waits, attempt))
                threading.Thread(target=breaking, name="picas-stop", daemon=True).start()

    def _waits(self, attempt: Attempt) -> bool:
        """Tell whether the code of a token has a child that it may be waiting for."""
        return bool(self._children(attempt))

    def _children_of(self, attempts: Iterable[Attempt]) -> list[Popen[Any]]:
        """Return the children of tokens in slots, with those of threads that the user's code has started."""
        children = self._children()
        for attempt in attempts:
            children += [child for child in self._children(attempt) if child not in children]
        return children

    def _finish_all(self, attempts: Sequence[Attempt]) -> None:
        """Save tokens one by one that could not be saved together; they share the patience with the database."""
        give_up = time.monotonic() + self.max_outage
        for attempt in attempts:
            self._finish_unsaved(attempt, max(0.0, give_up - time.monotonic()))


class _Shift:
    """One run in slots: what is at work, what has ended, and whether there is to be more."""

    def __init__(
        self,
        worker: ParallelWorker,
        conditions: StopConditions,
        slots: Slots[Attempt],
        tokens: Iterator[Any],
        is_alone: bool,
    ) -> None:
        self.worker = worker
        self.conditions = conditions
        self.slots = slots
        self.pending: list[Attempt] = []
        """Tokens in their final state that are still to be saved."""
        self.broken_off: list[Attempt] = []
        """Tokens whose work did not come to its end."""
        self._tokens = tokens
        self._is_alone = is_alone  # whether the slots save their tokens themselves
        self._exchanging = tokens if isinstance(tokens, ViewIterator) and tokens.can_exchange(worker.db) else None
        self._is_closed = False  # no token is started any more
        self._is_dry = False  # there was no token left; what ends may have brought one
        self._last = Exchange()
        self._failure: BaseException | None = None
        self._gpus = gpu_names(worker.pilot.has.gpus)  # those that no token has

    def run(self) -> None:
        """Keep the slots filled until there are no more tokens or a condition is met."""
        worker, slots = self.worker, self.slots
        while True:
            if worker._is_stopping():
                raise PilotStopped(worker.stop_exit_code)
            self._is_closed |= self.conditions.is_late or self._is_stopped()
            wanted = self._wanted()
            if wanted or self.pending:
                self._exchange(wanted)
            if not slots.running and (self._is_closed or self._is_dry):
                break
            ended = slots.collect(LOOK, lambda: worker._is_stopping() or self._wanted() > 0)
            self.take_out(ended)
            for attempt in ended:
                if attempt.interruption is not None:
                    raise attempt.interruption
                self._note_end(attempt)
        self.conditions.tell_refusal()
        if self._failure is not None:
            raise self._failure

    def take_out(self, ended: Sequence[Attempt]) -> None:
        """Sort tokens that have left their slots into those to be saved, and those that were broken off."""
        for attempt in ended:
            if attempt.interruption is not None:
                self.broken_off.append(attempt)
            elif not self._is_alone:
                attempt.retry(self.conditions)
                self.pending.append(attempt)

    def save(self) -> None:
        """Save all tokens that are in their final state."""
        pending, self.pending = self.pending, []
        if self._exchanging is not None and pending:
            self._exchanging.exchange(pending, 0)
        self.worker._finish_all(pending)

    def _note_end(self, attempt: Attempt) -> None:
        self._gpus += attempt.gpus
        self._is_dry = False
        if self._last.has_larger:  # there may be room for one of them now
            self._last = Exchange()
        self.conditions.processed += 1
        self.worker.current_task = attempt.token
        with exposed():
            self._is_closed |= self.conditions.are_met()

    def _wanted(self) -> int:
        """Return how many tokens are to be locked now."""
        if self._is_closed or self._is_dry or not self._last.is_ready():
            return 0
        free = self.worker._room().slots
        return int(max(0, min(free, self.conditions.tokens_left - len(self.slots.running))))

    def _is_stopped(self) -> bool:
        return isinstance(self._tokens, ViewIterator) and self._tokens.is_stopped()

    def _exchange(self, wanted: int) -> None:
        """Save what has ended, lock others and put them into slots."""
        pending, self.pending = self.pending, []
        if isinstance(self._tokens, ViewIterator):
            self._tokens.room = self.worker._room()
        if self._exchanging is not None and pending:
            exchange = self._exchanging.exchange(pending, wanted)
            self.worker._finish_all(pending)
        else:
            exchange = self._ask(wanted)
        if wanted:
            self._is_dry = exchange.is_over or exchange.next_at > self.conditions.last_start
            self._last = Exchange() if exchange.locked or self._is_dry else exchange
        for task in exchange.locked:
            needs = needs_of(task)
            has_room = self.worker._room().fits(needs)  # it may not ask for that, or its lock was found only now
            attempt = self.worker._start(task, self.conditions, has_room)
            if attempt is not None:
                attempt.gpus = [self._gpus.pop(0) for _ in range(needs.gpus)]
                self.slots.start(attempt)
                self.worker._held = None
            elif self._exchanging is None:
                # What does not ask what fits may give the same token again. It fits later if it only lacks room.
                self._is_dry = True
                self._is_closed |= has_room or not self.worker.pilot.has.cover(needs)

    def _ask(self, wanted: int) -> Exchange:
        """Lock tokens; while the database is away none."""
        tokens = self._tokens
        if not isinstance(tokens, ViewIterator):
            locked = list(islice(tokens, 1))
            return Exchange(locked, is_over=not locked)

        def has_other_work() -> bool:
            return self.worker._is_stopping() or self.conditions.is_late or self.slots.has_ended()

        def ask() -> Exchange:
            return tokens.poll() if self._exchanging is None else self._exchanging.exchange([], wanted)

        try:
            return wait_out(ask, self.worker.max_outage, has_other_work)
        except (PicasError, HTTPError) as error:
            if is_outage(error) and has_other_work():
                return Exchange()
            if not self.slots.running:
                raise
            self._failure, self._is_closed = error, True  # what runs is to end first
            return Exchange()
