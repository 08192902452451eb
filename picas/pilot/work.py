"""The loop around the user's code: claim a token, process it, save what became of it, go on with the next."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any, Callable

from couchdb.http import HTTPError

from .. import executers, modifiers
from ..clients import CouchDB
from ..couch.outages import is_outage, wait_out
from ..documents import Document
from ..exceptions import PicasError, PilotStopped, TokenLost, TokenTimeout
from ..iterators import EndlessViewIterator, ViewIterator
from ..pool.claims import Exchange
from ..pool.results import ClaimedToken
from ..processes import KILL_WAIT
from ..processes.interrupts import TimeLimit, exposed
from ..util import wait_until
from .attempts import Attempt, retry
from .conditions import StopConditions
from .identity import Pilot
from .outcomes import conclude, has_result, may_retry, was_ended_by_signal

log = logging.getLogger(__name__)

STOP_LAG = 0.5
"""Seconds to wait for the pilot's own signal after a child was ended by one: a batch system sends them one by one."""

at_work: set[int] = set()
"""The threads in which actors run, by their identifiers."""


class Worker:
    """Works on tokens, one after the other or several at a time. `Actor` starts and stops it."""

    db: CouchDB
    iterator: Any
    token_reset_values: list[Any] | None
    auto_close: bool
    stop_exit_code: int
    grace: float
    max_outage: float
    spool_folder: Path | None

    def __init__(self) -> None:
        self.tasks_processed = 0
        self.pilot = Pilot()
        self._values: dict[str, Any] = {}
        self._values_of_slot = threading.local()
        self._counting = threading.Lock()
        self._held: Attempt | None = None  # locked by this pilot, outside of the slots, and not saved yet
        self._has_left_some = False  # whether a token may have stayed locked by this pilot
        self._asked = Exchange()  # what came of asking for tokens the last time
        self._thread: int | None = None  # that of the run
        self._stop_signal: int | None = None

    # --- what users override

    def prepare_env(self, *args: Any, **kwargs: Any) -> None:
        """Do what is needed once, before the first token."""

    def prepare_run(self, *args: Any, **kwargs: Any) -> None:
        """Do what is needed before each token."""

    def process_task(self, task: Any) -> None:
        """Process one token: do the work, and write what came out of it into the token.

        Set `task["exit_code"]` to tell whether it went well. An exception marks the token as failed.
        """
        raise NotImplementedError("process_task is not implemented")

    def cleanup_run(self, *args: Any, **kwargs: Any) -> None:
        """Clean up after each token; it has been saved."""

    def cleanup_env(self, *args: Any, **kwargs: Any) -> None:
        """Clean up once, at the end, however the run ends."""

    # --- what users look at

    @property
    def current_task(self) -> Any:
        """The token at work, None if there is none; in a slot that of the slot."""
        return self._value("current_task")

    @current_task.setter
    def current_task(self, task: Any) -> None:
        self._set_value("current_task", task)

    @property
    def subprocess(self) -> Popen[Any] | None:
        """A child of the user's own that is to end with its token; in a slot that of the slot."""
        process: Popen[Any] | None = self._value("subprocess")
        return process

    @subprocess.setter
    def subprocess(self, process: Popen[Any] | None) -> None:
        self._set_value("subprocess", process)

    def _value(self, name: str) -> Any:
        values = getattr(self._values_of_slot, "values", self._values)
        return values.get(name)

    def _set_value(self, name: str, value: Any) -> None:
        getattr(self._values_of_slot, "values", self._values)[name] = value

    # --- one token at a time

    def _work_in_turn(self, conditions: StopConditions) -> None:
        tokens = self._begin(conditions)
        exchanging = self._exchanging(tokens, conditions)
        held = self._claim(tokens, conditions)
        while held is not None:
            self._process(held, conditions)
            self._held = None
            conditions.processed += 1
            goes_on = conditions.tokens_left > 0 and not conditions.is_late and not self._is_stopping()
            can_exchange = exchanging is not None and exchanging.can_exchange(self.db) and not exchanging.is_stopped()
            if exchanging is not None and can_exchange and goes_on:
                held = self._exchange(held, exchanging, conditions)
            else:
                self._finish(held, conditions)
                held = None
                with exposed():
                    if conditions.are_met():
                        return
            held = held or self._claim(tokens, conditions)

    def _begin(self, conditions: StopConditions) -> Iterator[Any]:
        """Return the iterator that gives the tokens of this run."""
        self._asked = Exchange()
        tokens: Iterator[Any] = iter(self.iterator)
        if isinstance(tokens, EndlessViewIterator):
            tokens.deadline = None if conditions.last_start == math.inf else conditions.last_start
        if isinstance(tokens, ViewIterator):
            tokens.pilot, tokens.fits = self.pilot.id, conditions.fits
        return tokens

    def _exchanging(self, tokens: Iterator[Any], conditions: StopConditions) -> ViewIterator | None:
        """Return the iterator if tokens may be saved in the request that locks others, else None."""
        if self._are_seen(conditions):
            return None
        return tokens if isinstance(tokens, ViewIterator) and tokens.can_exchange(self.db) else None

    def _are_seen(self, conditions: StopConditions) -> bool:
        """Tell whether somebody is to see tokens saved in their final state, before whatever comes next.

        That is a `cleanup_run` of the user's, or a `stop_function`.
        """
        is_cleaned = getattr(self.cleanup_run, "__func__", None) is not Worker.cleanup_run
        return is_cleaned or conditions.stop_function is not None

    def _exchange(self, held: Attempt, tokens: ViewIterator, conditions: StopConditions) -> Attempt | None:
        """Save a token, and lock the next if there is one at once; return that."""
        held.retry(conditions)
        self._asked = exchange = tokens.exchange([held], 1)
        self._finish_unsaved(held)
        self.current_task = None
        if exchange.is_over:
            tokens.stop()
        return self._start(exchange.locked[0], conditions) if exchange.locked else None

    def _claim(self, tokens: Iterator[Any], conditions: StopConditions) -> Attempt | None:
        """Return the next token, locked; None if there is none, or no time for it."""
        self.current_task = None
        while not conditions.is_late:
            task = self._next(tokens, conditions)
            if task is None:
                break
            held = self._start(task, conditions)
            if held is not None:
                return held
            if not (isinstance(tokens, ViewIterator) and tokens.can_exchange(self.db)):
                break  # it does not ask what fits, and may give the same token again
        conditions.tell_refusal()
        return None

    def _next(self, tokens: Iterator[Any], conditions: StopConditions) -> Any:
        """Return the next token, locked, or None if there is none."""
        if not isinstance(tokens, ViewIterator):
            return next(tokens, None)
        if not tokens.can_exchange(self.db):
            return self._wait_out(lambda: next(tokens, None), conditions)
        return self._next_in_time(tokens, conditions)

    def _next_in_time(self, tokens: ViewIterator, conditions: StopConditions) -> Any:
        """Do that without waiting for tokens for longer than this run has time."""

        def is_over() -> bool:
            return self._is_stopping() or conditions.is_late or tokens.is_stopped()

        while True:
            if self._asked.next_at > conditions.last_start:
                log.info("No further token: those that are left wait for their next try, for longer than this run")
                break
            wait_until(lambda: self._asked.is_ready() or is_over(), math.inf)
            exchange = None if is_over() else self._wait_out(lambda: tokens.exchange([], 1), conditions)
            if exchange is None:
                break
            if exchange.locked:
                self._asked = Exchange()
                return exchange.locked[0]
            self._asked = exchange
            if exchange.is_over:
                tokens.stop()
                break
        tokens.rest()
        return None

    def _wait_out(self, action: Callable[[], Any], conditions: StopConditions) -> Any:
        """Return what an action returns that claims tokens, None if the run is over while the database is away."""

        def is_over() -> bool:
            return self._is_stopping() or conditions.is_late

        try:
            return wait_out(action, self.max_outage, is_over)
        except (PicasError, HTTPError) as error:
            if is_outage(error) and is_over():
                log.warning("The run is over while the database is away: %s", error)
                return None
            raise

    def _start(self, task: Any, conditions: StopConditions, has_room: bool = True) -> Attempt | None:
        """Take charge of a token that was just locked; it is put back, and None returned, if it is too late for it.

        :param has_room: whether there is room for it
        """
        self.current_task = task
        self._held = held = Attempt(task, self._values)
        if "exit_code" in task:
            task["exit_code"] = ""  # that of an earlier attempt says nothing of this one
        if has_room and conditions.fits(task):
            return held
        self._held = None
        self._put_back(held)
        self._save(held)
        return None

    # --- what becomes of a token

    def _process(self, held: Attempt, conditions: StopConditions) -> None:
        """Run the user's code on a token and bring it into its final state; it is still to be saved.

        :raises PilotStopped, KeyboardInterrupt: if the run is to end; the token is as the code has left it then
        """
        task = held.token
        held.limit = limit = TimeLimit(
            conditions.max_token_time,
            lambda: has_result(task, self.auto_close),
            lambda: self._end_children(self._children(held)),
            self.grace,
        )
        error: BaseException | None = None
        began = time.monotonic()
        try:
            if held.is_interrupted:  # before it began
                raise PilotStopped(self.stop_exit_code)
            with exposed():
                self.prepare_run()
                with limit:
                    self.process_task(task)
                    held.is_processed = not held.is_interrupted  # the code may have swallowed the interruption
        except (PilotStopped, KeyboardInterrupt):
            raise
        except (TokenTimeout, TokenLost):
            pass  # the limit knows, and so does the token
        except BaseException as caught:  # also sys.exit() in some library: a token does not end the pilot
            error = caught
        finally:
            limit.close()
        if held.is_lost:
            error = TokenLost("the token was taken from this pilot, which had not been heard of")
        elif limit.expired:
            error = self._judge_time_out(held, limit)
        elif was_ended_by_signal(task.get("exit_code")) or was_ended_by_signal(getattr(error, "returncode", None)):
            wait_until(self._is_stopping, STOP_LAG)
        if self._is_stopping() or held.is_interrupted:
            raise PilotStopped(self.stop_exit_code)
        if not limit.expired and not held.is_lost:
            conditions.note(time.monotonic() - began)
        self._conclude(held, error)

    def _judge_time_out(self, held: Attempt, limit: TimeLimit) -> TokenTimeout | None:
        """Return the error that a token has whose code was broken off, None if it had its result by then."""
        if not limit.was_finished:
            return TokenTimeout(f"time-out: {limit.seconds:g} s are over")
        modifiers.note_error(held.token, "time-out: the code had given its result, but went on, and was broken off")
        return None

    def _conclude(self, held: Attempt, error: BaseException | None) -> None:
        """Bring a token that was processed into its final state."""
        outcome = conclude(held.token, error, self.auto_close)
        held.is_concluded = True
        with self._counting:
            self.tasks_processed += 1
            self.pilot.count(outcome)

    def _put_back(self, held: Attempt) -> None:
        """Bring a token whose work was broken off into the state that says so."""
        modifiers.end_attempt(held.token, "stopped")
        modifiers.reset(held.token, *(self.token_reset_values or (0, 0)))
        with self._counting:
            self.pilot.count("stopped")

    def _wind_up(self, held: Attempt, conditions: StopConditions) -> bool:
        """Bring a token whose run ends into its final state: that of its result if it has one, else it is put back.

        :returns: whether it is to be saved
        """
        is_finished = held.is_processed or has_result(held.token, self.auto_close)
        if is_finished and not was_ended_by_signal(held.token.get("exit_code")):
            self._conclude(held, None)
            held.retry(conditions)
        elif self.token_reset_values is not None:
            self._put_back(held)
        else:
            return False
        return True

    def _save(self, held: Attempt, max_outage: float | None = None, retries: StopConditions | None = None) -> bool:
        """Save a token in its final state, with all patience, and return whether that worked.

        :param retries: if the token is to have another try only once it is saved: what tells that. If it can't be
            saved, what is kept of it has that try.
        """
        is_saved = held.save(
            self.db,
            max_outage=self.max_outage if max_outage is None else max_outage,
            spool_folder=self.spool_folder,
            # A slot whose run is broken off keeps its result aside at once: nobody waits for its thread any more.
            is_stopped=lambda: self._is_stopping() or (held.is_interrupted and held.thread == threading.get_ident()),
            to_keep=None if retries is None else lambda: retry(Document(dict(held.token)), retries),
        )
        self._has_left_some |= not is_saved and not held.is_others
        return is_saved

    def _finish(self, held: Attempt, conditions: StopConditions) -> None:
        """Save a token by itself, clean up after it, and give it another try if it has failed and has one left.

        In one write, unless the failure is to be seen.
        """
        is_seen = self._are_seen(conditions)
        if not is_seen:
            held.retry(conditions)
        is_saved = self._save(held, retries=conditions if is_seen else None)
        try:
            self._clean_run(held, is_saved)
        finally:
            if is_saved and may_retry(held.token, conditions.max_scrub):
                self._save_change(held.token, partial(retry, conditions=conditions))

    def _finish_unsaved(self, held: Attempt, max_outage: float | None = None) -> None:
        """Save a token that an exchange has not saved."""
        if not held.is_saved:
            self._save(held, max_outage)

    def _clean_run(self, held: Attempt, is_saved: bool) -> None:
        held.limit = limit = TimeLimit(None, lambda: False, lambda: False, self.grace)
        try:
            if held.is_interrupted:  # before it began
                raise PilotStopped(self.stop_exit_code)
            with exposed(), limit:
                self.cleanup_run()
        except Exception as error:
            log.exception("cleanup_run failed after token %s", held.id)
            if is_saved:
                message = f"{type(error).__name__} in cleanup_run: {error}"
                note = partial(modifiers.note_error, message=message, exception=error)
                self._save_change(held.token, note)
        finally:
            limit.close()

    def _save_change(self, task: Document, change: Callable[[Document], Any]) -> None:
        """Change a token whose result was saved, and save it again."""
        saved = ClaimedToken(task)
        change(task)
        saved.save(self.db, max_outage=self.max_outage, is_stopped=self._is_stopping, is_result=False)

    # --- tokens that others may have taken

    def _at_work(self) -> list[Attempt]:
        """Return the tokens that this pilot works on."""
        return [] if self._held is None else [self._held]

    def _free_slots(self) -> int:
        """Return how many tokens more this pilot could work on, if each takes one slot."""
        return self.pilot.slots - len(self._at_work())

    def _describe_work(self) -> dict[str, Any]:
        """Return what this pilot works on, for its document."""
        return {"holds": [held.id for held in self._at_work()], "free": self._free_slots()}

    def _check_claims(self) -> None:
        """Stop the work on tokens that are not this pilot's any more; called from another thread.

        :raises PicasError, couchdb.http.HTTPError: if the database is away
        """
        for held in self._at_work():
            if held.is_concluded or held.is_lost:
                continue  # whoever saves it finds out
            try:
                stored = self.db.get(held.id).value
            except ValueError:
                stored = {}
            if not modifiers.is_same_lock(stored, held.claimed):
                log.warning("Token %s is not this pilot's any more: the work on it is stopped", held.id)
                held.is_lost = True
                threading.Thread(target=self._stop_lost, args=(held,), name="picas-lost", daemon=True).start()

    def _stop_lost(self, held: Attempt) -> None:
        """End the work on a token that was lost. What came of it so far is kept aside when it can't be saved."""
        self._end_children(self._children(held))
        if held.limit is not None:
            held.limit.break_off(TokenLost, self.grace + KILL_WAIT)

    def _is_stopping(self) -> bool:
        return self._stop_signal is not None

    def _children(self, held: Attempt | None = None) -> list[Popen[Any]]:
        """Return the children that run for this actor, or only those of a token in a slot."""
        if held is not None and held.thread is not None:
            thread: int | None = held.thread
        else:
            # Those of threads that the user's code has started count too, unless they may be another actor's.
            thread = self._thread if len(at_work) > 1 else None
        children = executers.running(thread)
        own = (self._values if held is None else held.values).get("subprocess")
        if own is not None and hasattr(own, "send_signal") and own not in children and own.poll() is None:
            children.append(own)
        return children

    def _end_children(self, children: list[Popen[Any]]) -> bool:
        """End children with their process groups; return whether any was alive."""
        return executers.end_all(children, self.grace)
