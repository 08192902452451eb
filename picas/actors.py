"""The actor: what a user's script subclasses, and how it starts and stops."""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import Popen
from types import FrameType
from typing import Any, Callable, Literal, Union

from couchdb.http import HTTPError

from .batch import grants, walltimes
from .clients import CouchDB
from .config import duration
from .couch.outages import MAX_OUTAGE, is_outage
from .documents import Document
from .exceptions import PicasError, PilotStopped
from .executers import GRACE
from .iterators import TaskViewIterator, ViewIterator
from .pilot.attempts import Attempt
from .pilot.conditions import StopConditions
from .pilot.heartbeat import Heartbeat, lifetimes
from .pilot.identity import Pilot
from .pilot.leases import MAX_LOST, Watch
from .pilot.outcomes import STOP_SIGNALS
from .pilot.parallel import ParallelWorker
from .pilot.work import at_work
from .pool import spool
from .pool.candidates import fits_always
from .pool.recovery import recover_quietly
from .processes.interrupts import exposed, interrupt, shielded
from .tokens.states import is_in_state
from .util import Timer

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
    :param grace: seconds that children have between SIGTERM and SIGKILL; by default $PICAS_GRACE, or 30
    :param max_outage: seconds that the database may be away before a result goes to a file, or the run ends; by default
        $PICAS_MAX_OUTAGE, or an hour
    :param heartbeat: seconds between two signs of life; by default $PICAS_HEARTBEAT, or 60, and a third of the lease if
        that is less
    :param lease: seconds without a sign of life after which this pilot takes another for dead and puts its tokens back;
        by default $PICAS_LEASE, or ten minutes. A pilot with a longer lease is given its own. A pilot whose Python code
        keeps all threads from running for so long counts as dead.
    :param max_lost: how often a token may lose its pilot before it counts as failed
    :param spool_folder: the folder for results that can't be saved; by default $PICAS_SPOOL, or picas-spool in the
        working directory
    :param walltime: seconds from the begin of a run until the pilot must have ended; by default $PICAS_WALLTIME, or
        what the batch system tells (see `walltimes.job_end`). It takes no token that can't end before: by the token's
        own field `walltime` (seconds) or `max_token_time`, whichever is less, else by the time that the last took.
    :param cores: processors that this pilot has. It takes no token that needs more than it has, by the token's own
        fields `cores`, `memory`, `gpus` and `tags`, see `resources.needs_of`. By default $PICAS_CORES, or what the
        batch system granted, or what the machine has; but never less than it has slots.
    :param memory: its memory in megabytes, or a text like "4G"; by default $PICAS_MEMORY, or likewise
    :param gpus: how many GPUs it has; by default $PICAS_GPUS, or likewise
    :param tags: what else tokens may ask for; by default $PICAS_TAGS, with commas between, or nothing
    :param view_params: CouchDB's query parameters for the view, and `design_doc`
    :raises ValueError: if `db` is None
    :raises SettingsError: if one of these times or resources makes no sense, or the spool folder is a file
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
        grace: float | None = None,
        max_outage: float | None = None,
        heartbeat: float | None = None,
        lease: float | None = None,
        max_lost: int = MAX_LOST,
        spool_folder: str | Path | None = None,
        walltime: float | None = None,
        cores: int | None = None,
        memory: float | str | None = None,
        gpus: int | None = None,
        tags: str | Iterable[str] | None = None,
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
        self.grace = duration(grace, "PICAS_GRACE", GRACE)
        self.max_outage = duration(max_outage, "PICAS_MAX_OUTAGE", MAX_OUTAGE)
        self.heartbeat, self.lease = lifetimes(heartbeat, lease)
        self.walltime = duration(walltime, walltimes.VARIABLE, math.inf)
        self.resources = grants.resources(cores, memory, gpus, tags)
        self.max_lost = max_lost
        self.spool_folder = None if spool_folder is None else Path(spool_folder)
        spool.check_folder(self.spool_folder)

        self.time = Timer()
        self._previous_handlers: dict[int, Any] = {}
        self._heartbeat: Heartbeat | None = None

    # --- what users call

    def run(self, max_token_time: float | None = None, *, slots: Slots = 1) -> None:
        """Process tokens until the iterator has no more.

        :param max_token_time: seconds after which the work on a token is ended and counts as failed
        :param slots: how many tokens are processed at a time; "auto" for as many as this process was granted
            processors (see `grants.granted_cores`), or for as many as `cores` says. A token that needs several cores
            takes as many slots, but all at the most. If it is more than one, each slot is a thread that calls
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
        count = self._count(slots)
        with shielded():  # a signal interrupts the user's code only; else it takes effect where the loop looks for it
            conditions.has = replace(self.resources, cores=max(self.resources.cores, count))
            self._has_left_some = False
            self.time = Timer()
            self._stop_signal = None
            conditions.deadline, conditions.deadline_source = walltimes.deadline(self.walltime)
            self.pilot = Pilot(slots=count, has=conditions.has, deadline=conditions.deadline)
            self._thread = threading.get_ident()
            at_work.add(self._thread)
            self.setup_handler()
            try:
                self._prepare_and_work(conditions, count)
            finally:
                if isinstance(self.iterator, ViewIterator):
                    # What did not fit this run may fit whoever goes on with it.
                    self.iterator.fits, self.iterator.room = fits_always, None
                self._end_heartbeat()
                self._restore_handlers()
                at_work.discard(self._thread)
                self._thread = None

    def _count(self, slots: Slots) -> int:
        """Return how many slots that are."""
        if slots == "auto":
            return self.resources.cores
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
            raise ValueError(f'slots must be a number above 0 or "auto", not {slots!r}')
        return slots

    def _prepare_and_work(self, conditions: StopConditions, slots: int) -> None:
        is_prepared = False
        try:
            with exposed():
                self.prepare_env()
            is_prepared = True
            self._begin_heartbeat(conditions)
            self._recover(conditions)
            if slots == 1:
                self._work_in_turn(conditions)
            else:
                self._work_in_slots(conditions, slots)
        except BaseException:
            self._end_children(self._children())
            self._release(conditions)
            if is_prepared or self._is_stopping():
                self._clean_env_quietly()
            raise
        self._release(conditions)
        self.cleanup_env()

    def _clean_env_quietly(self) -> None:
        """Clean up without hiding the exception that ends the run."""
        try:
            self.cleanup_env()
        except Exception:
            log.exception("cleanup_env failed")

    # --- signs of life

    def _begin_heartbeat(self, conditions: StopConditions) -> None:
        """Let other pilots see that this one lives, before it locks any token."""
        if not isinstance(self.db, CouchDB):
            return  # a stand-in of a script's own

        def begin() -> Heartbeat:
            client = self.db.copy()  # a script may do to its own what it likes
            client.server.resource.session.retry_pauses = ()
            watch = Watch(client, self.pilot.id, self.lease, self.max_lost)
            heartbeat = Heartbeat(client, self.pilot, self.heartbeat, watch, self._describe_work, self._check_claims)
            heartbeat.save_first()
            return heartbeat

        try:
            self._heartbeat = self._wait_out(begin, conditions)
        except HTTPError as error:
            if is_outage(error):
                raise
            log.warning("If this pilot dies its tokens stay locked: the server refuses its document (%s)", error)
        if self._heartbeat is not None:
            self._heartbeat.begin()

    def _recover(self, conditions: StopConditions) -> None:
        """Bring in what earlier pilots have kept in the spool folder."""
        if isinstance(self.db, CouchDB):
            recover = partial(recover_quietly, self.db, self.spool_folder, is_stopped=self._is_stopping)
            self._wait_out(recover, conditions)

    def _end_heartbeat(self) -> None:
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.end(is_clean=not self._has_left_some)

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

    def _release(self, conditions: StopConditions) -> None:
        """Save the current token if its work is finished, else put it back, not counted as a failure."""
        held, self._held = self._held, None
        if held is not None and self._wind_up(held, conditions):
            self._save(held)
        for found in self._settle():
            if self._wind_up(found, conditions):
                self._save(found)

    def _settle(self) -> list[Attempt]:
        """Return the tokens that were locked by requests whose answers were lost."""
        if not isinstance(self.iterator, ViewIterator):
            return []
        try:
            tasks = self.iterator.settle()
        except (PicasError, HTTPError) as error:
            log.error("A token may have stayed locked by this pilot, %s: %s", self.pilot.id, error)
            self._has_left_some = True
            return []
        return [Attempt(task, {}) for task in tasks]

    def _stop_without_run(self) -> None:
        """Do at once what the loop does when it is stopped, for a handler that is called without a run."""
        try:
            self._end_children(self._children())
            if isinstance(self.current_task, Document) and is_in_state(self.current_task, "locked"):
                self._held = Attempt(self.current_task, self._values)
            self._release(StopConditions())
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
        retry_delay: float = 0.0,
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
        :param retry_delay: seconds before a token that failed may be taken again, by any pilot; twice as long after
            each further failure, at most an hour, and longer by up to a quarter at random. A run does not end while
            tokens wait for that, unless it has no time for them. 0 for no wait.
        :param stop_function_args: the arguments of `stop_function`
        :raises ValueError: if `retry_delay` is no time
        :raises: what `Actor.run` raises
        """
        self._work(
            StopConditions(
                max_token_time=max_token_time,
                max_total_time=max_total_time,
                max_tasks=max_tasks,
                max_scrub=max_scrub,
                retry_delay=retry_delay,
                stop_function=stop_function,
                stop_function_args=stop_function_args,
            ),
            slots,
        )


def outcomes(actor: Actor) -> dict[str, int]:
    """Return how many attempts of an actor's last run ended in which way, e.g. {"done": 2, "failed": 1}."""
    return dict(actor.pilot.outcomes)
