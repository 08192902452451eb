"""The loop of a run: lock tokens, put them into slots, save what has ended, go on until there are no more.

With one slot the user's code runs in the thread of the run, with several in a thread for each slot. The slots bring the
tokens into their final state; the thread of the run saves those and locks others, all that have ended by then in one
request. Where a `cleanup_run` or a `stop_function` of the user's is to find each token saved as it ended, each is saved
by itself, in its slot.

Short tokens are locked ahead (see `pace`): they wait for a slot, which takes the next at once, and what has ended is
saved when few of them are left. A result that has waited long enough is saved before that, and tokens that wait behind
a long one are put back. If the only slot is the thread of the run, another thread does both meanwhile (see `relief`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Callable

from couchdb.http import HTTPError

from ..couch.outages import is_outage, wait_out
from ..exceptions import PicasError, PilotStopped
from ..iterators import EndlessViewIterator, ViewIterator, design_doc_of
from ..picaslogger import get_logger
from ..pool.claims import Exchange
from ..pool.results import Stage
from ..processes import exposed, reach, set_environment, shielded
from ..tokens.resources import Room
from ..util import After
from ..views import DESIGN_DOC
from .attempt import Attempt
from .context import Context
from .fuse import Fuse
from .gpus import GPUPool
from .holders import Holders
from .indexing import ViewIndex
from .pace import Pace
from .relief import Relief
from .slots import MainSlot, Slots, ThreadSlots
from .work import Work

log = get_logger(__name__)

LOOK = 10.0
"""The longest pause between two checks of the conditions while tokens are at work, in seconds."""
MAX_ATTACHED = 8_000_000
"""Results are saved at once if their files have more characters than this: they are in memory until then."""


class Loop:
    """Keeps the slots of a run filled.

    :param context: the run
    :param is_seen: whether the user's code is to find each token saved as it ended
    :param silence: see `Holders`
    """

    def __init__(self, context: Context, is_seen: bool, silence: Callable[[str], float]) -> None:
        self.context = context
        self.unsaved: list[Attempt] = []
        """Tokens in their final state that have yet to be saved."""
        self._held: list[Attempt] = []  # all tokens that were locked, and not known to be over at the last request
        self._tokens: Iterator[Any] = iter(context.actor.iterator)
        self._is_seen = is_seen
        self._is_alone = is_seen or self._exchanging() is None  # whether the slots save their tokens themselves
        self._is_closed = False  # no further token is started
        self._is_dry = False  # there was no token for now; one that ends may bring another
        self._is_exhausted = False  # the iterator said that there are no more
        self._is_short = False  # there was no token to be locked ahead
        self._last = Exchange()  # the answer to the last request for tokens
        self._holders = Holders(context.pilot.id, silence)
        tokens = self._tokens
        self._index = ViewIndex(design_doc_of(tokens) if isinstance(tokens, ViewIterator) else DESIGN_DOC)
        self._fuse = Fuse(context.conditions.max_failures)
        self._failure: BaseException | None = None  # raised once the running tokens have ended
        self._gpus = GPUPool(context.pilot.has.gpus, context.options.hides_gpus)
        self._extensions = 0  # those of the deadline that the iterator knows
        count = context.pilot.slots
        self.slots: Slots[Attempt] = MainSlot(self._work_on) if count == 1 else ThreadSlots(count, self._work_on)
        self._pace = Pace(0.0 if self._must_see_each() else context.options.claim_ahead, count)
        self._relief = Relief(self._due, self._relieve) if count == 1 and self._pace.is_on else None
        self._attached = 0  # the size of the files in `unsaved`
        self._large = 0  # how many tokens in slots need several cores
        self._signals = context.signals.state()
        self._moved = 0.0  # when a slot has last taken a token, on the clock of time.monotonic
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
            self._set_end()
            self._is_closed |= context.is_over() or self._is_iterator_stopped()
            self.give_back(None if self._is_closed or context.is_paused else self._surplus())
            wanted, ahead = self._wanted()
            if self._is_time_to_exchange(wanted, ahead):
                self._exchange(wanted, ahead)
            is_idle = not self.slots.running and not self.unsaved
            if is_idle and (self._is_closed or self._is_dry) and not self._waits_for_others():
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
        ended = []
        for attempt in self._collect(seconds):
            if attempt.interruption is None and not self._is_alone and attempt.stage is not Stage.LOST:
                self.context.retry(attempt)
                self.unsaved.append(attempt)
                self._attached += attempt.attached
            elif self._is_alone:
                self._count_replaced([attempt])
            self._gpus.take_back(attempt)
            self._large -= attempt.needs.cores > 1
            if attempt.began is not None:
                self._pace.note(attempt.ended - attempt.began)
                ended.append(attempt)
        return ended

    def save(self) -> None:
        """Save all tokens that are in their final state."""
        self._exchange(0)

    def give_back(self, count: int | None = None) -> None:
        """Take tokens that wait for a slot, to be put back with the next save.

        :param count: how many; all by default
        """
        taken = self.slots.take_back(self.slots.waiting() if count is None else count)
        tokens = self._exchanging() if taken else None
        if tokens is not None:
            tokens.look_anew()
        for attempt in taken:
            if attempt.stage is not Stage.LOST:
                self._let_go(attempt)
                self.unsaved.append(attempt)

    def held(self) -> list[Attempt]:
        """Return the tokens that may be locked by this pilot: at work, before it, or not saved."""
        return [attempt for attempt in list(self._held) if not attempt.is_over]

    def room(self) -> Room:
        """Return what is left of the pilot for further tokens; less than nothing if some wait for a slot."""
        pilot = self.context.pilot
        return Room.of(pilot.slots, pilot.has, [attempt.needs for attempt in list(self.slots.running)])

    def close(self) -> None:
        """Let the slots end, and the iterator wait no longer."""
        if self._relief is not None:
            self._relief.close()
        self.slots.close()
        set_environment({})  # the GPUs of the last token, if this thread was its slot
        if isinstance(self._tokens, EndlessViewIterator):
            EndlessViewIterator.rest(self._tokens)

    # --- what is asked of the iterator

    def _introduce(self) -> None:
        """Set the pilot for which the iterator locks tokens, and what fits it."""
        if isinstance(self._tokens, ViewIterator):
            self._tokens.pilot, self._tokens.fits = self.context.pilot.id, self.context.matcher.fits
        if self._is_iterator_stopped():  # as in picas 1.1, nothing is processed
            log.warning("The iterator has ended before this run; iterator.reset() lets it start again")

    def _set_end(self) -> None:
        """Set when the iterator ends, and what fits: the batch system may have changed the end of the job."""
        tokens, matcher = self._tokens, self.context.matcher
        if isinstance(tokens, EndlessViewIterator):
            tokens.deadline = None if matcher.last_start == math.inf else matcher.last_start
        if isinstance(tokens, ViewIterator) and self._extensions < matcher.extensions:
            self._extensions = matcher.extensions
            tokens.fits = partial(matcher.fits)  # an object of its own: what did not fit is looked at again
            tokens.look_anew()
            self._is_dry, self._last = False, Exchange()

    def _is_iterator_stopped(self) -> bool:
        return isinstance(self._tokens, ViewIterator) and self._tokens.is_stopped()

    def _exchanging(self) -> ViewIterator | None:
        """Return the iterator if it can save tokens in the request that locks others, else None."""
        tokens = self._tokens
        return tokens if isinstance(tokens, ViewIterator) and tokens.can_exchange(self.context.actor.db) else None

    def _wanted(self) -> tuple[int, int]:
        """Return how many tokens are to be locked now for slots that are free, and how many ahead."""
        waiting = self.slots.waiting()
        is_idle = self._is_closed or self._is_dry or self.context.is_paused
        if waiting > self.slots.reserve or is_idle or not self._last.is_ready():
            return 0, 0
        running = self.slots.running
        left = self.context.conditions.tokens_left - len(running)
        wanted = math.ceil(max(0, min(self.room().slots, left)))  # a script may compute max_tasks by a division
        if not self._pace.is_on or (not wanted and (self._is_short or self._relief is not None)):
            return wanted, 0
        if self._is_crammed or self._exchanging() is None:  # a script may change the actor's database, or the iterator
            return wanted, 0
        most = self._pace.most(self._times_at_work())
        self.slots.reserve = max(0, most - self.context.pilot.slots) // 2 if self._relief is None else 0
        return wanted, max(0, most - len(running) - wanted)

    def _exchange(self, wanted: int, ahead: int = 0) -> None:
        """Save what has ended, lock other tokens and put them into slots."""
        unsaved = list(self.unsaved)
        room = self.room()
        began = time.monotonic()
        if isinstance(self._tokens, ViewIterator):
            self._tokens.room = room if self.context.pilot.slots > 1 else None
        try:
            exchange = self._request(unsaved, wanted, ahead)
            locked = [Attempt(token, self.context.values.of_run) for token in exchange.locked]
        except (PicasError, HTTPError):
            raise
        except Exception:
            self.context.has_left_some = True  # nobody knows any more what was locked
            raise
        self._held = self.held() + locked
        self._save(unsaved)
        if wanted or ahead:
            self._pace.note_request(time.monotonic() - began)
            self._is_short = ahead > 0 and not exchange.locked
            self._take_note(exchange)
        for attempt in locked:
            room = self._start(attempt, room)

    def _request(self, unsaved: list[Attempt], wanted: int, ahead: int) -> Exchange:
        """Save tokens and lock others, in one request if the iterator can do that."""
        tokens = self._exchanging()
        if tokens is not None and unsaved and (wanted or ahead or len(unsaved) > 1):
            return tokens.exchange(unsaved, wanted, ahead)
        self._save(unsaved)
        return self._ask(wanted, ahead) if wanted or ahead else Exchange()

    def _take_note(self, exchange: Exchange) -> None:
        """Decide from an answer when, and whether, to ask for tokens again."""
        waits_too_long = exchange.next_at > self.context.matcher.last_start
        if waits_too_long and not exchange.is_over:
            log.info("No further token: those that are left wait for their next try, for longer than this run")
        self._is_exhausted = exchange.is_over
        self._is_dry = exchange.is_over or waits_too_long
        self._last = Exchange() if exchange.locked or self._is_dry else exchange

    def _waits_for_others(self) -> bool:
        """Return whether to ask again later, since pilots without a sign of life hold tokens; log who holds some."""
        tokens, conditions = self._exchanging(), self.context.conditions
        if self._is_closed or not self._is_exhausted or tokens is None:
            return False
        waits, is_idle = conditions.wait_for_locked, not conditions.processed
        pause = self._holders.look(self.context.actor.db, design_doc_of(tokens), waits=waits, is_idle=is_idle)
        if pause is None or not waits:
            return False
        self._is_dry = self._is_exhausted = False
        self._last = Exchange(is_ready=After(pause))
        return True

    def _ask(self, wanted: int, ahead: int) -> Exchange:
        """Lock tokens; none while the database is away and there is something else to do."""
        if not isinstance(self._tokens, ViewIterator):
            locked = [token for token in islice(self._tokens, 1) if token is not None]
            return Exchange(locked, is_over=not locked)
        tokens, exchanging, client = self._tokens, self._exchanging(), self.context.actor.db

        def ask() -> Exchange:
            if exchanging is not None:
                return exchanging.exchange([], wanted, ahead)
            # Not `tokens.poll()`: an iterator of a script's own may use that name for something else.
            if isinstance(tokens, EndlessViewIterator):
                return EndlessViewIterator.poll(tokens)
            return ViewIterator.poll(tokens)

        def request() -> Exchange:
            while self._index.wait(client, self._is_needed_elsewhere):
                try:
                    return ask()
                except (PicasError, HTTPError) as error:
                    if not self._index.is_behind(client, error):
                        raise
            return Exchange()

        try:
            return wait_out(lambda: reach(request), self.context.options.max_outage, self._is_needed_elsewhere)
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
        if self.context.is_over() or self._is_iterator_stopped() or self._extensions < self.context.matcher.extensions:
            return True
        return bool(self.slots.waiting()) if self.context.is_paused else self._wanted() != (0, 0)

    # --- tokens that are locked ahead, and results that are not saved at once

    def _must_see_each(self) -> bool:
        """Return whether the user's code decides on each token, or may look at the one before it."""
        tokens = self._tokens
        has_callback = isinstance(tokens, EndlessViewIterator) and tokens.stop_callback is not None
        return self._is_alone or has_callback or bool(self.context.conditions.max_tasks)

    def _times_at_work(self) -> list[float]:
        """Return for how many seconds the tokens in the slots have been at work."""
        now = time.monotonic()
        return [
            now - attempt.began
            for attempt in list(self.slots.running)
            if attempt.began is not None and attempt.ended == math.inf
        ]

    def _surplus(self) -> int:
        """Return how many of the waiting tokens are to be put back, since they would have to wait for too long."""
        if not self.slots.waiting():
            return 0
        at_work = [] if self._relief is not None else self._times_at_work()
        return self._pace.surplus(len(self.slots.running), at_work)

    def _is_time_to_exchange(self, wanted: int, ahead: int) -> bool:
        if wanted or ahead:
            return True
        if not self.unsaved or not self.slots.waiting():
            return bool(self.unsaved)
        if self._attached > MAX_ATTACHED:
            return True
        next_look = 0.0 if self._relief is None else self._pace.usual
        return self.unsaved[0].ended + self._pace.patience <= time.monotonic() + next_look

    def _due(self) -> float:
        """Return when results are to be saved, or waiting tokens to be put back, at the latest."""
        since = self.unsaved[0].ended if self.unsaved else math.inf
        if self.slots.waiting():
            since = min(since, self._moved)
        return since + self._pace.patience

    def _relieve(self) -> None:
        """Do what is due in another thread, while the only slot, that of the thread of the run, is busy."""
        context = self.context
        if context.is_paused or context.is_over():
            self.give_back()
        else:
            self.give_back(self._pace.surplus(len(self.slots.running), self._times_at_work()))
        self.save()

    def _collect(self, seconds: float) -> list[Attempt]:
        if self._relief is not None and not self.context.is_breaking_off:
            self._relief.enter()
            try:
                return self.slots.collect(seconds, self._has_other_task)
            finally:
                self._relief.leave()
        if self._pace.is_on and (self.unsaved or self.slots.waiting()):
            # Soon enough for what has ended, or was begun, unseen.
            left = self._due() - time.monotonic()
            seconds = min(seconds, max(0.0, left), self._pace.patience / 4)
        return self.slots.collect(seconds, self._has_other_task)

    # --- slots

    def _start(self, attempt: Attempt, room: Room) -> Room:
        """Put a token that was just locked into a slot, or back into the pool if it does not fit.

        :param room: what is left of the pilot
        :returns: what is left of it then
        """
        context, token = self.context, attempt.token
        context.actor.current_task = token
        if "exit_code" in token:
            token["exit_code"] = ""  # that of an earlier attempt means nothing for this one
        if context.is_paused or context.is_draining:  # the order came during the request
            self._let_go(attempt)
            self.unsaved.append(attempt)
            tokens = self._exchanging()
            if tokens is not None:
                tokens.look_anew()
            return room
        # An iterator may not ask what fits; and a lock may be found only now, whose answer was lost.
        has_room = room.fits(attempt.needs)
        attempt.waits = not has_room and self._may_wait(attempt)
        if (has_room or attempt.waits) and context.matcher.fits(token):
            self._gpus.assign(attempt)
            self._large += attempt.needs.cores > 1
            self._moved = time.monotonic()
            self.slots.start(attempt)
            return room.without(attempt.needs)
        if attempt.waits:
            attempt.give_back()
            self.unsaved.append(attempt)
            return room
        reset_values = context.actor.token_reset_values
        context.count(
            attempt.token, attempt.put_back("stopped: it does not fit this pilot", reset_values), is_processed=False
        )
        Work(context, attempt).save()
        if self._exchanging() is None:
            # It does not ask what fits and may give the same token again. That fits later if it only lacks room.
            self._is_dry = True
            self._is_closed |= has_room or not context.pilot.has.cover(attempt.needs)
        return room

    def _may_wait(self, attempt: Attempt) -> bool:
        """Return whether a token may wait for a slot: it gets no GPU, and needs no room beside other tokens."""
        needs = attempt.needs
        return (
            self._pace.is_on and (needs.is_plain if self._relief is None else not needs.gpus) and not self._is_crammed
        )

    @property
    def _is_crammed(self) -> bool:
        """Whether slots stay empty on purpose, since a token needs several cores: they must take no waiting token."""
        return self._relief is None and self._large > 0

    def _may_begin(self, attempt: Attempt) -> bool:
        """Return whether the work on a token may begin: much may have changed while it waited for its slot."""
        context = self.context
        if attempt.waits:
            is_over = self._is_closed or context.is_over() or context.is_breaking_off or self._is_iterator_stopped()
            is_over |= context.is_paused or attempt.stage is Stage.CANCELLED
            if attempt.stage is not Stage.LOST and (is_over or not context.matcher.fits(attempt.token)):
                self._let_go(attempt)
                return False
        return attempt.begin()

    def _let_go(self, attempt: Attempt) -> None:
        """Bring a token whose work has not begun into the state in which it is to be saved."""
        if attempt.stage is Stage.CANCELLED:
            Work(self.context, attempt).conclude_cancelled()
            attempt.ended = time.monotonic()
            return
        attempt.give_back()
        if self.context.is_paused:  # there is at least this token once the pool is resumed
            self._is_dry = False

    def _work_on(self, attempt: Attempt) -> None:
        """Process a token in a slot; called in the slot's thread."""
        context = self.context
        if not self._may_begin(attempt):
            return
        self._moved = time.monotonic()
        context.pilot.usage.begin(attempt, attempt.needs.cores)
        if isinstance(self.slots, ThreadSlots):
            attempt.thread = threading.get_ident()
            attempt.values = context.values.enter_slot(attempt.token)
        else:
            context.actor.current_task = attempt.token
        self._gpus.show(attempt)
        work = Work(context, attempt)
        with shielded():
            try:
                work.process()
                if self._is_alone:
                    work.finish(self._is_seen)
            except BaseException as error:  # the thread of the run decides what follows
                attempt.interruption = error
            context.signals.restore_state(self._signals)
        attempt.ended = time.monotonic()
        context.pilot.usage.end(attempt)

    def _note_end(self, attempt: Attempt) -> None:
        self._is_dry = False
        if self._last.has_larger:  # there may be room for one of them now
            self._last = Exchange()
        conditions = self.context.conditions
        conditions.processed += 1
        failure = self._fuse.note(attempt.outcome, attempt.token)
        if failure is not None:
            self._failure, self._is_closed = failure, True  # the running tokens are to end first
        self.context.actor.current_task = attempt.token
        with exposed():
            self._is_closed |= conditions.are_met()
        if not self._is_closed:
            self.context.actor.current_task = None

    def _save(self, attempts: list[Attempt]) -> None:
        """Save tokens that could not be saved together, one by one. If the database stays away, one waits for all."""
        is_away = False
        for attempt in attempts:
            if attempt.stage is Stage.CONCLUDED:
                Work(self.context, attempt).save(is_away=is_away)
                is_away |= attempt.met_outage
        self.unsaved = [attempt for attempt in self.unsaved if attempt.stage is Stage.CONCLUDED]
        self._count_replaced(attempt for attempt in attempts if attempt.stage is not Stage.CONCLUDED)
        self._attached = 0

    def _count_replaced(self, attempts: Iterable[Attempt]) -> None:
        """Count the tokens whose results could not be stored as they were."""
        self.context.pilot.replaced += sum(bool(attempt.replaced) for attempt in attempts)
