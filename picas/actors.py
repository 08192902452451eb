"""The actor: what a user's script subclasses, and how it starts and stops."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen
from types import FrameType
from typing import Any, Callable, Literal, Union

from couchdb.http import HTTPError

from .clients import CouchDB
from .conditions import StopConditions
from .documents import Document
from .exceptions import PicasError, PilotStopped
from .executers import GRACE
from .interrupts import exposed, interrupt, shielded
from .iterators import TaskViewIterator, ViewIterator
from .outages import MAX_OUTAGE
from .outcomes import STOP_SIGNALS
from .parallel import ParallelWorker
from .pilots import Pilot
from .resources import granted_cores
from .states import is_in_state
from .util import Timer
from .work import Attempt, at_work

log = logging.getLogger(__name__)

Slots = Union[int, Literal["auto"]]


class Actor(ParallelWorker):
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
        super().__init__()
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

        self.time = Timer()
        self._previous_handlers: dict[int, Any] = {}

    # --- what users call

    def run(self, max_token_time: float | None = None, *, slots: Slots = 1) -> None:
        """Process tokens until the iterator has no more.

        :param max_token_time: seconds after which the work on a token is ended and counts as failed
        :param slots: how many tokens are processed at a time; "auto" for as many as this process was granted
            processors (see `resources.granted_cores`). If it is more than one, each slot is a thread that calls
            `prepare_run`, `process_task` and `cleanup_run`. There `current_task` and `subprocess` are the slot's own;
            all other attributes, the working directory and the environment are shared, and are to be left alone or
            guarded by a lock. `stop_function` is called by the thread of the run.
        :raises ValueError: if that is no number above 0
        :raises PilotStopped: if a signal told the pilot to stop, to end the process with `stop_exit_code`
        :raises OSError, couchdb.http.HTTPError: if the database stays away for longer than `max_outage`, or if it
            refuses the pilot (no such view, wrong password)
        """
        self._work(StopConditions(max_token_time=max_token_time), slots)

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

    # --- a run

    def _work(self, conditions: StopConditions, slots: Slots) -> None:
        count = _count(slots)
        with shielded():  # a signal interrupts the user's code only; else it takes effect where the loop looks for it
            self.pilot = Pilot()
            self.time = Timer()
            self._stop_signal = None
            self._thread = threading.get_ident()
            at_work.add(self._thread)
            self.setup_handler()
            try:
                self._prepare_and_work(conditions, count)
            finally:
                self._restore_handlers()
                at_work.discard(self._thread)
                self._thread = None

    def _prepare_and_work(self, conditions: StopConditions, slots: int) -> None:
        is_prepared = False
        try:
            with exposed():
                self.prepare_env()
            is_prepared = True
            if slots == 1:
                self._work_in_turn(conditions)
            else:
                self._work_in_slots(conditions, slots)
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

    # --- stopping

    def _stop_run(self) -> None:
        if self._held is not None:
            self._held.is_interrupted = True
        # Ended from another thread: code that is interrupted while it waits for a child can't see its end here.
        ending = threading.Thread(target=self._end_for_stop, args=(self._children(),), name="picas-stop", daemon=True)
        ending.start()
        raise PilotStopped(self.stop_exit_code)

    def _end_for_stop(self, children: list[Popen[Any]]) -> None:
        log.warning("Stopping on signal %s", self._stop_signal)  # not in the handler, which may have met a log line
        self._end_children(children)

    def _release(self) -> None:
        """Save the current token if its work is finished, else put it back, not counted as a failure."""
        held, self._held = self._held, None
        if held is not None and self._wind_up(held):
            self._save(held)
        for found in self._settle():
            if self._wind_up(found):
                self._save(found)

    def _settle(self) -> list[Attempt]:
        """Return the tokens that were locked by requests whose answers were lost."""
        if not isinstance(self.iterator, ViewIterator):
            return []
        try:
            tasks = self.iterator.settle()
        except (PicasError, HTTPError) as error:
            log.error("A token may have stayed locked by this pilot, %s: %s", self.pilot.id, error)
            return []
        return [Attempt(task, {}) for task in tasks]

    def _stop_without_run(self) -> None:
        """Do at once what the loop does when it is stopped, for a handler that is called without a run."""
        try:
            self._end_children(self._children())
            if isinstance(self.current_task, Document) and is_in_state(self.current_task, "locked"):
                self._held = Attempt(self.current_task, self._values)
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
        *,
        slots: Slots = 1,
        **stop_function_args: Any,
    ) -> None:
        """Process tokens until the iterator has no more or a condition is met.

        :param max_token_time: seconds after which the work on a token is ended and counts as failed
        :param max_total_time: seconds after which no further token is started; with `max_token_time` known, none is
            started either that could not end before
        :param max_tasks: how many tokens this call processes at the most
        :param max_scrub: how often a token that failed is put back into the pool
        :param stop_function: is called after each token; true ends the run
        :param slots: how many tokens are processed at a time, see `Actor.run`
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
            ),
            slots,
        )


def _count(slots: Slots) -> int:
    """Return how many slots that are."""
    if slots == "auto":
        return granted_cores()
    if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
        raise ValueError(f'slots must be a number above 0 or "auto", not {slots!r}')
    return slots
