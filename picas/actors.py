"""The pilot's loop: claim a token, process it, save what became of it, go on with the next."""

from __future__ import annotations

import logging
import math
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Callable

from couchdb.http import HTTPError

from . import executers, modifiers
from .clients import CouchDB
from .conditions import StopConditions
from .documents import Document
from .exceptions import PicasError, PilotStopped, TokenTimeout
from .executers import GRACE
from .interrupts import TimeLimit, exposed, interrupt, shielded, wait_until
from .iterators import EndlessViewIterator, TaskViewIterator, ViewIterator
from .outages import MAX_OUTAGE, is_outage, wait_out
from .pilots import Pilot
from .results import ClaimedToken
from .states import is_in_state, parse_int, state_of
from .util import Timer

log = logging.getLogger(__name__)

STOP_SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOP_LAG = 0.5
"""Seconds to wait for the pilot's own signal after a child was ended by one: a batch system sends them one by one."""

_at_work: set[int] = set()  # the threads in which actors run, by their identifiers

_STOPPED_EXIT_CODES = frozenset(
    code for signum in (*STOP_SIGNALS, signal.SIGKILL) for code in (-signum, 128 + signum)
)  # of a child that got the signal which stops the pilot too, as Popen and as a shell tell it


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

    stop_signals = STOP_SIGNALS
    """The signals that stop the pilot. A batch system may want others as well, such as SIGUSR1."""

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
        self._thread: int | None = None  # that of the run
        self._stop_signal: int | None = None
        self._is_interrupted = False
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
        """Make the `stop_signals` stop this actor. Does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            log.info("Not in the main thread: signals are left alone")
            return
        for signum in self.stop_signals:
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
        if isinstance(self.iterator, ViewIterator):
            self.iterator.stop()
        interrupt(self._stop_without_run if self._thread is None else self._stop_run)

    # --- the loop

    def _work(self, conditions: StopConditions) -> None:
        with shielded():  # a signal interrupts the user's code only; else it takes effect where the loop looks for it
            self.pilot = Pilot()
            self.time = Timer()
            self._stop_signal = None
            self._is_interrupted = False
            self._thread = threading.get_ident()
            _at_work.add(self._thread)
            self.setup_handler()
            try:
                self._prepare_and_work(conditions)
            finally:
                self._restore_handlers()
                _at_work.discard(self._thread)
                self._thread = None

    def _prepare_and_work(self, conditions: StopConditions) -> None:
        is_prepared = False
        try:
            with exposed():
                self.prepare_env()
            is_prepared = True
            for held in self._claimed_tokens(conditions):
                self._run(held, conditions)
                conditions.processed += 1
                with exposed():
                    if conditions.are_met():
                        break
        except BaseException:
            self._end_children(self._children())
            self._release()
            if is_prepared or self._is_stopping():
                self._clean_env_quietly()
            raise
        self._release()
        self.cleanup_env()

    def _clean_env_quietly(self) -> None:
        """Clean up without hiding the exception that ends the run."""
        try:
            self.cleanup_env()
        except Exception:
            log.exception("cleanup_env failed")

    def _claimed_tokens(self, conditions: StopConditions) -> Iterator[ClaimedToken]:
        """Yield tokens that this pilot has locked, one by one."""
        tokens = iter(self.iterator)
        if isinstance(tokens, EndlessViewIterator):
            tokens.deadline = None if conditions.max_total_time is None else conditions.last_start
        while time.monotonic() <= conditions.last_start:
            self.current_task = None
            task = self._claim(tokens, conditions)
            if task is None:
                return
            self.current_task = task
            self._held = held = ClaimedToken(task)
            if "exit_code" in task:
                task["exit_code"] = ""  # that of an earlier attempt says nothing of this one
            if time.monotonic() > conditions.last_start:
                self._save(held, "stopped")
                break
            yield held
        log.info("No further token: it could not end within the %s s of this run", conditions.max_total_time)

    def _claim(self, tokens: Iterator[Any], conditions: StopConditions) -> Any:
        """Return the next token, locked, or None if there is none."""
        if not isinstance(tokens, ViewIterator):
            return next(tokens, None)
        tokens.pilot = self.pilot.id

        def is_over() -> bool:
            return self._is_stopping() or time.monotonic() > conditions.last_start

        try:
            return wait_out(lambda: next(tokens, None), self.max_outage, is_over)
        except (PicasError, HTTPError) as error:
            if is_outage(error) and is_over():
                log.warning("The run is over while the database is away: %s", error)
                return None
            raise

    def _run(self, held: ClaimedToken, conditions: StopConditions) -> None:
        """Process one token and save what became of it."""
        task = held.token
        limit = TimeLimit(
            conditions.max_token_time,
            lambda: self._has_result(task),
            lambda: self._end_children(self._children()),
            self.grace,
        )
        error: BaseException | None = None
        try:
            with exposed():
                self.prepare_run()
                with limit:
                    self.process_task(task)
                    held.is_processed = not self._is_interrupted  # the code may have swallowed the interruption
        except (PilotStopped, KeyboardInterrupt):
            raise
        except TokenTimeout:
            pass  # the limit knows
        except BaseException as caught:  # also sys.exit() in some library: a token does not end the pilot
            error = caught
        finally:
            limit.close()
        if limit.expired:
            error = self._judge_time_out(held, limit)
        elif _was_ended_by_signal(task) or parse_int(getattr(error, "returncode", None)) in _STOPPED_EXIT_CODES:
            wait_until(self._is_stopping, STOP_LAG)
        if self._is_stopping():
            raise PilotStopped(self.stop_exit_code)
        is_saved = self._conclude(held, error)
        try:
            self._clean_run(held, is_saved)
        finally:
            if is_saved:
                self._scrub_if_failed(task, conditions.max_scrub)

    def _judge_time_out(self, held: ClaimedToken, limit: TimeLimit) -> TokenTimeout | None:
        """Return the error that a token has whose code was broken off, None if it had its result by then."""
        if not limit.was_finished:
            return TokenTimeout(f"time-out: {limit.seconds:g} s are over")
        modifiers.note_error(held.token, "time-out: the code had given its result, but went on, and was broken off")
        return None

    def _conclude(self, held: ClaimedToken, error: BaseException | None) -> bool:
        """Bring a token that was processed into its final state, save it, and return whether that worked."""
        task = held.token
        if isinstance(error, TokenTimeout):
            modifiers.set_error(task, error)
            log.warning("Token %s failed: %s", held.id, error)
        elif error is not None:
            modifiers.set_error(task, f"{type(error).__name__}: {error}", error)
            log.warning("Token %s failed: %s: %s", held.id, type(error).__name__, error)
        elif self.auto_close and is_in_state(task, "locked"):
            if task.get("exit_code") in ("", None):
                task["exit_code"] = 0
            modifiers.close(task)
        self.tasks_processed += 1
        if isinstance(error, TokenTimeout):
            return self._save(held, "time-out")
        # One that the user's code has put back itself has failed as well: that is why one does it.
        return self._save(held, {"done": "done", "locked": "left open"}.get(str(state_of(task)), "failed"))

    def _save(self, held: ClaimedToken, outcome: str) -> bool:
        self._held = None
        modifiers.end_attempt(held.token, outcome)
        if outcome == "stopped":
            modifiers.reset(held.token, *(self.token_reset_values or (0, 0)))
        self.pilot.count(outcome)
        return held.save(
            self.db, max_outage=self.max_outage, spool_folder=self.spool_folder, is_stopped=self._is_stopping
        )

    def _clean_run(self, held: ClaimedToken, is_saved: bool) -> None:
        try:
            with exposed():
                self.cleanup_run()
        except Exception as error:
            log.exception("cleanup_run failed after token %s", held.id)
            if is_saved:
                message = f"{type(error).__name__} in cleanup_run: {error}"
                note = partial(modifiers.note_error, message=message, exception=error)
                self._save_change(held.token, note)

    def _scrub_if_failed(self, task: Document, max_scrub: int) -> None:
        """Give a failed token another try if it has one left."""
        count = parse_int(task.get("scrub_count", 0))
        if is_in_state(task, "error") and max_scrub > (0 if math.isnan(count) else count):
            self._save_change(task, modifiers.scrub)

    def _save_change(self, task: Document, change: Callable[[Document], Any]) -> None:
        """Change a token whose result was saved, and save it again."""
        saved = ClaimedToken(task)
        change(task)
        saved.save(self.db, max_outage=self.max_outage, is_stopped=self._is_stopping, is_result=False)

    # --- stopping

    def _is_stopping(self) -> bool:
        return self._stop_signal is not None

    def _stop_run(self) -> None:
        self._is_interrupted = True
        # Ended from another thread: code that is interrupted while it waits for a child can't see its end here.
        ending = threading.Thread(target=self._end_for_stop, args=(self._children(),), name="picas-stop", daemon=True)
        ending.start()
        raise PilotStopped(self.stop_exit_code)

    def _end_for_stop(self, children: list[subprocess.Popen[Any]]) -> None:
        log.warning("Stopping on signal %s", self._stop_signal)  # not in the handler, which may have met a log line
        self._end_children(children)

    def _children(self) -> list[subprocess.Popen[Any]]:
        """Return the children that run for this actor."""
        # Those of threads that the user's code has started count too, unless they may be another actor's.
        children = executers.running(self._thread if len(_at_work) > 1 else None)
        own = self.subprocess
        if own is not None and hasattr(own, "send_signal") and own not in children:
            children.append(own)
        return children

    def _end_children(self, children: list[subprocess.Popen[Any]]) -> bool:
        """End children with their process groups; return whether any was alive."""
        return executers.end_all(children, self.grace)

    def _release(self) -> None:
        """Save the current token if its work is finished, else put it back, not counted as a failure."""
        held = self._held or self._find_unsure()
        self._held = None
        if held is None:
            return
        is_finished = held.is_processed or self._has_result(held.token)
        if is_finished and not _was_ended_by_signal(held.token):
            self._conclude(held, None)
        elif self.token_reset_values is not None:
            self._save(held, "stopped")

    def _find_unsure(self) -> ClaimedToken | None:
        """Return the token that was locked by a request whose answer was lost, if there is one."""
        if not isinstance(self.iterator, ViewIterator):
            return None
        try:
            task = self.iterator.settle()
        except (PicasError, HTTPError) as error:
            log.error("A token may have stayed locked by this pilot, %s: %s", self.pilot.id, error)
            return None
        return None if task is None else ClaimedToken(task)

    def _has_result(self, task: Document) -> bool:
        """Tell whether the user's code has said how its work ended, so that only its own clean-up is left."""
        return _is_closed(task) or (self.auto_close and task.get("exit_code", "") not in ("", None))

    def _stop_without_run(self) -> None:
        """Do at once what the loop does when it is stopped, for a handler that is called without a run."""
        try:
            self._end_children(self._children())
            if isinstance(self.current_task, Document) and is_in_state(self.current_task, "locked"):
                self._held = ClaimedToken(self.current_task)
            self._release()
            self._clean_env_quietly()
        finally:
            self._stop_signal = None
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


def _is_closed(task: Document) -> bool:
    return not is_in_state({"lock": 1, "done": task.get("done", 0)}, "locked")


def _was_ended_by_signal(task: Document) -> bool:
    """Tell whether a token's exit code is that of a child that the pilot's own signal, or we ourselves, have ended."""
    return parse_int(task.get("exit_code", None)) in _STOPPED_EXIT_CODES
