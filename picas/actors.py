"""The pilot's loop: claim a token, process it, save what became of it, go on with the next."""

from __future__ import annotations

import logging
import math
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Callable

from . import executers, modifiers
from .clients import CouchDB
from .documents import Task
from .exceptions import PilotStopped, TokenTimeout
from .executers import GRACE
from .interrupts import TimeLimit, interrupt, shielded
from .iterators import EndlessViewIterator, TaskViewIterator, ViewIterator
from .outages import MAX_OUTAGE, wait_out
from .pilots import Pilot
from .results import ClaimedToken
from .states import has_failed, is_in_state, parse_int
from .util import Timer

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_STOPPED_EXIT_CODES = frozenset(
    code for signum in (*STOP_SIGNALS, signal.SIGKILL) for code in (-signum, 128 + signum)
)  # of a child that got the signal which stops the pilot too, as Popen and as a shell tell it


@dataclass
class StopConditions:
    """When a run ends, other than for want of tokens."""

    max_token_time: float | None = None
    max_total_time: float | None = None
    max_tasks: int | None = None
    max_scrub: int = 0
    stop_function: Callable[..., Any] | None = None
    stop_function_args: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    processed: int = 0

    @property
    def last_start(self) -> float:
        """The time after which no token is started, on the clock of `time.monotonic`."""
        if self.max_total_time is None:
            return math.inf
        return self.started + self.max_total_time - (self.max_token_time or 0)

    def are_met(self) -> bool:
        """Tell whether the run is to end now that a token was processed."""
        if self.stop_function is not None and self.stop_function(**self.stop_function_args):
            return True
        return bool(self.max_tasks) and self.processed >= (self.max_tasks or 0)


class Actor:
    """Processes tokens one after the other. A subclass says how, in `process_task`.

    :param db: the pool
    :param iterator: where tokens come from; by default a `TaskViewIterator` on `view`
    :param view: the view that tokens are taken from
    :param token_reset_values: what `lock` and `done` of the current token become when the pilot is told to stop; None
        leaves the token as it is
    :param auto_close: whether a token that `process_task` has left open is closed, with exit code 0 if it has none
    :param stop_exit_code: the exit code of a process that is told to stop
    :param grace: seconds that children have between SIGTERM and SIGKILL
    :param max_outage: seconds that the database may be away before a result goes to a file, or the run ends
    :param spool_folder: the folder for results that can't be saved; by default $PICAS_SPOOL, or picas-spool in the
        working directory
    :param view_params: CouchDB's query parameters for the view, and `design_doc`
    :raises ValueError: if `db` is None
    """

    def __init__(
        self,
        db: CouchDB,
        iterator: Any = None,
        view: str = "todo",
        token_reset_values: Sequence[Any] | None = (0, 0),
        *,
        auto_close: bool = True,
        stop_exit_code: int = 0,
        grace: float = GRACE,
        max_outage: float = MAX_OUTAGE,
        spool_folder: str | Path | None = None,
        **view_params: Any,
    ) -> None:
        if db is None:
            raise ValueError("an actor needs a database")
        self.db = db
        self.iterator = TaskViewIterator(db, view, **view_params) if iterator is None else iterator
        self.token_reset_values = None if token_reset_values is None else list(token_reset_values)
        self.auto_close = auto_close
        self.stop_exit_code = stop_exit_code
        self.grace = grace
        self.max_outage = max_outage
        self.spool_folder = None if spool_folder is None else Path(spool_folder)

        self.current_task: Any = None
        self.subprocess: subprocess.Popen[Any] | None = None
        self.tasks_processed = 0
        self.pilot = Pilot()
        self.time = Timer()

        self._held: ClaimedToken | None = None  # locked by this pilot and not saved yet
        self._is_running = False
        self._stop_signal: int | None = None
        self._previous_handlers: dict[int, Any] = {}

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

    # --- what users call

    def run(self, max_token_time: float | None = None) -> None:
        """Process tokens until the iterator has no more.

        :param max_token_time: seconds after which the work on a token is ended and counts as failed
        :raises PilotStopped: if a signal told the pilot to stop, to end the process with `stop_exit_code`
        :raises OSError, couchdb.http.HTTPError: if the database stays away for longer than `max_outage`, or if it
            refuses the pilot (no such view, wrong password)
        """
        self._work(StopConditions(max_token_time=max_token_time))

    def reconnect(self) -> None:
        """Go on with new connections to the database."""
        self.db = self.db.copy()
        self.iterator.reconnect(self.db)

    def setup_handler(self) -> None:
        """Make SIGTERM, SIGINT and SIGHUP stop this actor. Does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            log.info("Not in the main thread: signals are left alone")
            return
        for signum in STOP_SIGNALS:
            previous = signal.getsignal(signum)
            if signum == signal.SIGHUP and previous == signal.SIG_IGN:
                continue  # started with nohup
            self._previous_handlers.setdefault(signum, previous)
            signal.signal(signum, self.handler)

    def handler(self, signum: int, frame: FrameType | None = None) -> None:
        """Stop the pilot: end the children, put the current token back, clean up, end the process.

        Further signals while that goes on change nothing.

        :param signum: the signal
        :param frame: where it met the code
        :raises PilotStopped: to end the process
        """
        if self._stop_signal is not None:
            return
        self._stop_signal = signum
        log.warning("Stopping on signal %s", signum)
        if isinstance(self.iterator, ViewIterator):
            self.iterator.stop()
        if self._is_running:
            # Ended from another thread: code that is interrupted while it waits for a child can't see its end here.
            threading.Thread(target=self._end_children, name="picas-stop", daemon=True).start()
            interrupt(self._raise_stopped)
        else:
            self._stop_without_run()

    # --- the loop

    def _work(self, conditions: StopConditions) -> None:
        self.pilot = Pilot()
        self.time = Timer()
        self._stop_signal = None
        self._is_running = True
        self.setup_handler()
        try:
            self._prepare_and_work(conditions)
        finally:
            self._is_running = False
            self._restore_handlers()

    def _prepare_and_work(self, conditions: StopConditions) -> None:
        try:
            self.prepare_env()
        except PilotStopped:
            self._clean_env()
            raise
        try:
            for held in self._claimed_tokens(conditions):
                self._run(held, conditions)
                conditions.processed += 1
                if conditions.are_met():
                    break
        except BaseException:
            with shielded():
                self._end_children()
                self._release()
            raise
        finally:
            self._clean_env()

    def _clean_env(self) -> None:
        with shielded():  # a signal does not break it off: it runs once
            self.cleanup_env()

    def _claimed_tokens(self, conditions: StopConditions) -> Iterator[ClaimedToken]:
        """Yield tokens that this pilot has locked, one by one."""
        tokens = iter(self.iterator)
        if isinstance(self.iterator, EndlessViewIterator) and conditions.max_total_time is not None:
            self.iterator.deadline = conditions.last_start
        while time.monotonic() <= conditions.last_start:
            self.current_task = None
            with shielded():  # a token that was locked is not lost to a signal: that takes effect after the block
                task = self._claim(tokens)
                if task is None:
                    return
                self.current_task = task
                self._held = held = ClaimedToken(task)
            yield held
        log.info("No further token: it could not end within the %s s of this run", conditions.max_total_time)

    def _claim(self, tokens: Iterator[Any]) -> Any:
        """Return the next token, locked, or None if there is none."""
        if not isinstance(tokens, ViewIterator):
            return next(tokens, None)
        tokens.pilot = self.pilot.id
        return wait_out(lambda: next(tokens, None), self.max_outage, self._is_stopping)

    def _is_stopping(self) -> bool:
        return self._stop_signal is not None

    def _run(self, held: ClaimedToken, conditions: StopConditions) -> None:
        """Process one token and save what became of it."""
        task = held.token
        limit = TimeLimit(conditions.max_token_time, lambda: _has_result(task), self._end_children)
        error: BaseException | None = None
        try:
            self.prepare_run()
            with limit:
                self.process_task(task)
            held.is_processed = not self._is_stopping()  # the code may have swallowed the interruption
        except (PilotStopped, KeyboardInterrupt):
            raise
        except TokenTimeout:
            pass  # the limit knows
        except BaseException as caught:  # also sys.exit() in some library: a token does not end the pilot
            error = caught
        finally:
            limit.close()
        if self._is_stopping():
            raise PilotStopped(self.stop_exit_code)
        if limit.expired:
            error = TokenTimeout(f"time-out: it took longer than {conditions.max_token_time:g} s")
        with shielded():
            is_saved = self._conclude(held, error)
        try:
            self._clean_run(held, is_saved)
        finally:
            if is_saved:
                self._scrub_if_failed(held, conditions.max_scrub)

    def _conclude(self, held: ClaimedToken, error: BaseException | None) -> bool:
        """Bring a token that was processed into its final state, save it, and return whether that worked."""
        task = held.token
        if isinstance(error, TokenTimeout):
            modifiers.set_error(task, error)
        elif error is not None:
            modifiers.set_error(task, f"{type(error).__name__}: {error}", error)
            log.warning("Token %s failed: %s: %s", task.id, type(error).__name__, error)
        elif self.auto_close and is_in_state(task, "locked"):
            if task.get("exit_code") in ("", None):
                task["exit_code"] = 0
            modifiers.close(task)
        failed = "time-out" if isinstance(error, TokenTimeout) else "failed"
        self.tasks_processed += 1
        return self._save(held, failed if error is not None or has_failed(task) else "done")

    def _save(self, held: ClaimedToken, outcome: str) -> bool:
        self._held = None
        modifiers.end_attempt(held.token, outcome)
        if outcome == "stopped" and self.token_reset_values is not None:
            modifiers.reset(held.token, *self.token_reset_values)
        self.pilot.count(outcome)
        return held.save(
            self.db, max_outage=self.max_outage, spool_folder=self.spool_folder, is_stopped=self._is_stopping
        )

    def _clean_run(self, held: ClaimedToken, is_saved: bool) -> None:
        try:
            self.cleanup_run()
        except Exception as error:
            log.exception("cleanup_run failed after token %s", held.token.id)
            if is_saved:
                noted = ClaimedToken(held.token)
                modifiers.note_error(held.token, f"{type(error).__name__} in cleanup_run: {error}", error)
                noted.save(self.db, max_outage=self.max_outage, is_stopped=self._is_stopping)

    def _scrub_if_failed(self, held: ClaimedToken, max_scrub: int) -> None:
        """Give a failed token another try if it has one left."""
        task = held.token
        count = parse_int(task.get("scrub_count", 0))
        if not is_in_state(task, "error") or not (math.isnan(count) or count < max_scrub) or max_scrub <= 0:
            return
        with shielded():
            saved = ClaimedToken(task)
            modifiers.scrub(task)
            saved.save(self.db, max_outage=self.max_outage, is_stopped=self._is_stopping)

    # --- stopping

    def _raise_stopped(self) -> None:
        raise PilotStopped(self.stop_exit_code)

    def _end_children(self) -> bool:
        """End all children with their process groups; return whether there were any."""
        children = executers.running()
        if self.subprocess is not None and self.subprocess.poll() is None and self.subprocess not in children:
            children.append(self.subprocess)
        executers.end_all(children, self.grace)
        return bool(children)

    def _release(self) -> None:
        """Save the current token if its work is finished, else put it back, not counted as a failure."""
        held = self._held
        if held is None:
            return
        was_ended_by_us = parse_int(held.token.get("exit_code")) in _STOPPED_EXIT_CODES
        if held.is_processed or (_has_result(held.token) and not was_ended_by_us):
            self._conclude(held, None)
        elif self.token_reset_values is not None:
            self._save(held, "stopped")

    def _stop_without_run(self) -> None:
        """Do at once what the loop does when it is stopped, for a handler that is called without a run."""
        self._end_children()
        if isinstance(self.current_task, Task) and is_in_state(self.current_task, "locked"):
            self._held = ClaimedToken(self.current_task)
            self._release()
        self._clean_env()
        raise PilotStopped(self.stop_exit_code)

    def _restore_handlers(self) -> None:
        while self._previous_handlers:
            signum, previous = self._previous_handlers.popitem()
            signal.signal(signum, signal.SIG_DFL if previous is None else previous)


AbstractRunActor = Actor


class RunActor(Actor):
    """An actor that also ends on conditions, and that retries failed tokens."""

    def run(
        self,
        max_token_time: float | None = None,
        max_total_time: float | None = None,
        max_tasks: int | None = None,
        max_scrub: int = 0,
        stop_function: Callable[..., Any] | None = None,
        **stop_function_args: Any,
    ) -> None:
        """Process tokens until the iterator has no more or a condition is met.

        :param max_token_time: seconds after which the work on a token is ended and counts as failed
        :param max_total_time: seconds after which no further token is started; with `max_token_time` known, none is
            started either that could not end before
        :param max_tasks: how many tokens this call processes at the most
        :param max_scrub: how often a token that failed is put back into the pool
        :param stop_function: is called after each token; true ends the run
        :param stop_function_args: its arguments
        :raises: what `Actor.run` raises
        """
        self._work(
            StopConditions(
                max_token_time=max_token_time,
                max_total_time=max_total_time,
                max_tasks=max_tasks,
                max_scrub=max_scrub,
                stop_function=stop_function,
                stop_function_args=stop_function_args,
            )
        )


def _has_result(task: Any) -> bool:
    """Tell whether the user's code has said how its work ended."""
    return bool(task.get("done", 0) != 0 or task.get("exit_code", "") not in ("", None))
